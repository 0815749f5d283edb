//! Pure decisions and transitions of orders, inventory, pricing and the catalogue.
