//! `entrepot seed`: a catalogue, fulfillment nodes in each region, and stock.

mod catalogue;
mod file;
pub(super) mod load;
pub(super) mod places;

use std::path::PathBuf;
use std::process::ExitCode;

use indicatif::{ProgressBar, ProgressStyle};

use self::load::{Loaded, ProductSpec, Receipt, Stocking};
use super::target::{Target, TargetArgs};
use crate::ports::Clock;
use crate::runtime::SystemClock;

/// Catalogue, nodes and stock for a deployment.
///
/// Makes a plausible catalogue (or takes one from a CSV file), a warehouse and a store in each region, and
/// stock at each of them. A second run adds nothing twice.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
    entrepot seed\n  \
    entrepot seed --skus 10000 --stock 300\n  \
    entrepot seed --file products.csv    # sku,name,price_eur[,price_usd,category,stock,…]")]
pub(super) struct Args {
    /// Products from a CSV file instead of the made-up ones
    #[arg(long, value_name = "PRODUCTS", conflicts_with = "skus")]
    file: Option<PathBuf>,
    /// How many products to make up
    #[arg(long, value_name = "N", default_value_t = 200, value_parser = clap::value_parser!(u32).range(1..=10_000_000))]
    skus: u32,
    /// Units of each product, over all nodes; a `stock` column of the file goes before it
    #[arg(long, value_name = "N", default_value_t = 600, value_parser = clap::value_parser!(u64).range(0..=1_000_000_000))]
    stock: u64,
    /// Print the result as JSON
    #[arg(long)]
    json: bool,
    #[command(flatten)]
    target: TargetArgs,
}

pub(super) async fn run(args: Args) -> anyhow::Result<ExitCode> {
    let clock = SystemClock::new();
    let target = Target::find(&args.target, "seed")?;
    let stocking = stocking(goods(&args)?, &target, "seed")?;
    let progress = progress_bar(stocking.requests(), "seeding");
    let loaded = load::load(&target, &stocking, &progress).await?;
    progress.finish_and_clear();
    if args.json {
        super::output::line(&serde_json::to_string_pretty(&loaded)?);
    } else {
        super::output::line(&told(&loaded));
        let seconds = std::time::Duration::from_millis(clock.monotonic_ms()).as_secs_f64();
        super::output::line(&format!("Seeded {} in {seconds:.1} s.", target.address));
    }
    Ok(ExitCode::SUCCESS)
}

/// One product, so that a fresh deployment can take an order. Not one of the made-up catalogue, whose
/// stock is what `seed` was told.
pub(super) async fn sample(data_dir: PathBuf) -> anyhow::Result<()> {
    let target = Target::find(&TargetArgs::local(data_dir), "sample")?;
    let body = serde_json::json!({
        "sku": SAMPLE_SKU, "name": "Mug", "category": "kitchen", "weight_grams": 350,
        "prices": [{"amount": 1200, "currency": "EUR"}, {"amount": 1300, "currency": "USD"},
                   {"amount": 1000, "currency": "GBP"}, {"amount": 110_000, "currency": "INR"}],
    });
    let product = ProductSpec { sku: SAMPLE_SKU.to_owned(), body };
    let stocking = stocking(vec![(product, SAMPLE_UNITS)], &target, "sample")?;
    load::load(&target, &stocking, &ProgressBar::hidden()).await?;
    Ok(())
}

/// What happened, in one line a kind.
pub(super) fn told(loaded: &Loaded) -> String {
    let line =
        |what: &str, new: u64, there: u64| format!("{what:<9}{new} new, {there} there already");
    [
        line("Nodes", loaded.nodes, loaded.nodes_already_there),
        line("Products", loaded.products, loaded.products_already_there),
        line("Units", loaded.units, loaded.units_already_there),
    ]
    .join("\n")
}

/// A progress bar on standard error; hidden where that is no terminal.
pub(super) fn progress_bar(length: u64, what: &'static str) -> ProgressBar {
    let style = ProgressStyle::with_template("{msg} {wide_bar} {pos}/{len} {per_sec} {eta}")
        .expect("the template is a constant");
    let progress = ProgressBar::new(length).with_style(style).with_message(what);
    progress.enable_steady_tick(std::time::Duration::from_millis(200));
    progress
}

/// See [`sample`]; the README orders it.
const SAMPLE_SKU: &str = "SAMPLE-MUG";
const SAMPLE_UNITS: u64 = 1_200;

fn goods(args: &Args) -> anyhow::Result<Vec<(ProductSpec, u64)>> {
    Ok(match &args.file {
        Some(path) => file::read(path)?
            .into_iter()
            .map(|row| (row.product, row.stock.unwrap_or(args.stock)))
            .collect(),
        None => catalogue::catalogue(usize::try_from(args.skus)?)
            .into_iter()
            .map(|product| (product, args.stock))
            .collect(),
    })
}

fn stocking(
    goods: Vec<(ProductSpec, u64)>,
    target: &Target,
    source: &str,
) -> anyhow::Result<Stocking> {
    let nodes: Vec<_> = target
        .regions
        .iter()
        .flat_map(|&region| [places::warehouse("wh-", region), places::store("st-", region)])
        .collect();
    let mut receipts = Vec::new();
    for (index, (product, stock)) in goods.iter().enumerate() {
        let weights: Vec<u64> = nodes.iter().map(|node| weight(&node.id, index)).collect();
        let total = i64::try_from(*stock)?;
        let shares = crate::types::split_by_largest_remainder(total, &weights);
        for (node, share) in nodes.iter().zip(shares) {
            let units = u64::try_from(share)?;
            if units > 0 {
                let (sku, node_id) = (product.sku.clone(), node.id.clone());
                receipts.push(Receipt { sku, node: node_id, region: node.region, units });
            }
        }
    }
    let products = goods.into_iter().map(|(product, _)| product).collect();
    Ok(Stocking { source: source.to_owned(), nodes, products, receipts })
}

/// A store carries one product of so many; a warehouse carries all.
const STORE_RANGE: usize = 4;

/// A warehouse holds three times what a store does, of what the store carries.
fn weight(node: &str, product: usize) -> u64 {
    if node.starts_with("wh-") { 3 } else { u64::from(product.is_multiple_of(STORE_RANGE)) }
}
