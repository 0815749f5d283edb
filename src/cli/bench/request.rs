//! Requests as bytes.

use std::fmt::Write as _;

use super::target::Target;

/// Digits of the number in a SKU, and of the serial number in an idempotency key.
const SKU_DIGITS: usize = 5;
const SERIAL_DIGITS: usize = 10;

/// The name of a SKU of the benchmark.
pub(super) fn sku(number: u64) -> String {
    format!("BENCH-{number:0SKU_DIGITS$}")
}

/// The bytes of a request with a JSON body, or without one.
pub(super) fn bytes(
    target: &Target,
    method: &str,
    path: &str,
    idempotency_key: &str,
    body: &str,
) -> Vec<u8> {
    let mut text = format!(
        "{method} {path} HTTP/1.1\r\nHost: {}\r\nAuthorization: Bearer {}\r\nContent-Length: {}\r\n",
        target.authority,
        target.token,
        body.len()
    );
    if !idempotency_key.is_empty() {
        write!(text, "Idempotency-Key: {idempotency_key}\r\n").expect("a string takes everything");
    }
    if !body.is_empty() {
        text.push_str("Content-Type: application/json\r\n");
    }
    text.push_str("\r\n");
    text.push_str(body);
    text.into_bytes()
}

/// `POST /orders`, made once and patched for each order: everything that changes has a fixed width.
#[derive(Clone)]
pub(super) struct Placement {
    bytes: Vec<u8>,
    serial_at: usize,
    skus_at: Vec<usize>,
}

impl Placement {
    pub(super) fn new(target: &Target, run: &str, lines: u64) -> Self {
        let numbered: Vec<_> = (0..lines).map(sku).collect();
        let items: Vec<_> =
            numbered.iter().map(|sku| format!(r#"{{"sku":"{sku}","quantity":1}}"#)).collect();
        let body = format!(
            concat!(
                r#"{{"channel":"web","customer_id":null,"email":"bench@example.com","currency":"EUR","#,
                r#""lines":[{}],"shipping_option":"standard","#,
                r#""shipping_address":{{"name":"Bench","line1":"1 Load Street","city":"Berlin","#,
                r#""postal_code":"10115","country":"DE"}},"#,
                r#""payments":[{{"method":"card","token":"tok_ok"}}]}}"#
            ),
            items.join(",")
        );
        let key = format!("{run}-{:0SERIAL_DIGITS$}", 0);
        let bytes = bytes(target, "POST", "/api/v1/orders", &key, &body);
        let text = std::str::from_utf8(&bytes).expect("made of strings");
        let serial_at = text.find(&key).expect("just put there") + key.len() - SERIAL_DIGITS;
        let skus_at = numbered
            .iter()
            .map(|sku| text.find(sku).expect("just put there") + sku.len() - SKU_DIGITS)
            .collect();
        Self { bytes, serial_at, skus_at }
    }

    /// The bytes of one order: lines of `first` and the SKUs after it, around the end of `skus`.
    pub(super) fn order(&mut self, serial: u64, first: u64, skus: u64) -> &[u8] {
        put(&mut self.bytes, self.serial_at, SERIAL_DIGITS, serial);
        for (line, &at) in self.skus_at.iter().enumerate() {
            put(&mut self.bytes, at, SKU_DIGITS, (first + line as u64) % skus);
        }
        &self.bytes
    }
}

fn put(bytes: &mut [u8], at: usize, digits: usize, mut number: u64) {
    for byte in bytes[at..at + digits].iter_mut().rev() {
        *byte = b'0' + u8::try_from(number % 10).expect("one digit");
        number /= 10;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_order_has_its_own_key_and_different_skus() {
        let target =
            Target { region: "r".to_owned(), authority: "h:1".to_owned(), token: "t".to_owned() };
        let mut placement = Placement::new(&target, "run", 3);
        let text = String::from_utf8(placement.order(42, 8, 9).to_vec()).unwrap();
        assert!(text.contains("Idempotency-Key: run-0000000042\r\n"), "{text}");
        for sku in ["BENCH-00008", "BENCH-00000", "BENCH-00001"] {
            assert_eq!(text.matches(sku).count(), 1, "{text}");
        }
        let (head, body) = text.split_once("\r\n\r\n").unwrap();
        assert!(head.contains(&format!("Content-Length: {}\r\n", body.len())));
        serde_json::from_str::<serde_json::Value>(body).unwrap();
    }
}
