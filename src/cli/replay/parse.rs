//! From the text of a file to invoices. Pure.
//!
//! Two passes over the same text: the first learns how this file writes numbers and dates, the second
//! reads the rows. A row that can't be read is not an error of the replay (real histories have
//! some): it is counted, and the first few are told with line and field. Nothing is dropped in silence:
//! `lines` of a [`History`] counts every row below the header, and each is a [`Line`] or unreadable.
//!
//! Lines are kept compactly (16 bytes each): half a million fit in ten megabytes.

use anyhow::{Context, bail};
use csv::ByteRecord;
use sha2::{Digest, Sha256};

use super::date::DateOrder;
use super::number::Marks;
use super::rows::Rows;
use crate::types::{CustomerId, Sku};

/// The eight columns under both of their spellings, as letters only.
const COLUMNS: [(&str, &[&str]); 8] = [
    ("InvoiceNo", &["invoiceno", "invoice"]),
    ("StockCode", &["stockcode", "sku"]),
    ("Description", &["description"]),
    ("Quantity", &["quantity"]),
    ("InvoiceDate", &["invoicedate", "date"]),
    ("UnitPrice", &["unitprice", "price"]),
    ("CustomerID", &["customerid", "customer"]),
    ("Country", &["country"]),
];

/// What an invoice is, told by the letter in front of its number.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    /// No letter: goods were sold.
    Sale,
    /// `C`: a cancellation or return.
    Cancellation,
    /// `A`: an adjustment of bad debt.
    Adjustment,
}

/// One row of the file.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Line {
    /// Index into [`History::skus`].
    pub(super) sku: u32,
    /// Units; negative on cancellations and write-offs.
    pub(super) quantity: i32,
    /// Ten-thousandths of a pound a unit.
    pub(super) price_parts: i64,
}

/// The rows with one invoice number.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Invoice {
    /// As the file has it, e.g. `536365`, `C536379`.
    pub(super) number: Box<str>,
    /// Told by the number.
    pub(super) kind: Kind,
    /// Of its earliest row, in seconds since 1970.
    pub(super) at: i64,
    /// Without the `.0` that one spelling of the file has. Of its first readable row.
    pub(super) customer: Option<CustomerId>,
    /// The shop's name of the country.
    pub(super) country: Box<str>,
    /// Its readable rows, in the file's order.
    pub(super) lines: Vec<Line>,
    /// Its other rows.
    pub(super) unreadable: u64,
}

/// What the file says of one stock code.
#[derive(Debug)]
pub(super) struct StockCode {
    /// The code, spelled as in the file: `85123A` and `85123a` are two.
    pub(super) sku: Sku,
    /// The first description that is not empty, on a line with a price if there is one.
    pub(super) name: Box<str>,
    /// Whether that line had a price.
    pub(super) name_has_price: bool,
}

/// A whole file.
#[derive(Debug)]
pub(super) struct History {
    /// In order of time, then of the file.
    pub(super) invoices: Vec<Invoice>,
    /// Every stock code.
    pub(super) skus: Vec<StockCode>,
    /// Rows below the header.
    pub(super) lines: u64,
    /// Rows without even an invoice number; they belong to no invoice.
    pub(super) orphans: u64,
    /// The first unreadable rows, as sentences.
    pub(super) examples: Vec<String>,
    /// SHA-256 of the unpacked text: the same file in another packing is the same file.
    pub(super) fingerprint: String,
}

/// Reads a whole file.
pub(super) fn parse(text: &[u8]) -> anyhow::Result<History> {
    let text_body = text.strip_prefix(b"\xef\xbb\xbf").unwrap_or(text);
    let mut reader = reader_of(text_body);
    let mut record = ByteRecord::new();
    let positions = match reader.read_byte_record(&mut record) {
        Ok(true) => positions(&record)?,
        Ok(false) => bail!("the file has no line: it needs a header line and invoice lines"),
        Err(error) => return Err(error).context("line 1 (the header) cannot be read"),
    };
    let start = reader.position().clone();

    let (mut marks, mut order) = (Marks::default(), DateOrder::default());
    while read(&mut reader, &mut record)? {
        marks.learn(&decoded(record.get(positions[5]).unwrap_or_default()));
        order.learn(&decoded(record.get(positions[4]).unwrap_or_default()));
    }

    let mut reader = reader_of(text_body);
    reader.seek(start).context("the text is in memory")?;
    let mut rows = Rows::new(positions, marks, order);
    while read(&mut reader, &mut record)? {
        rows.add(&record);
    }
    let fingerprint = hex::encode(Sha256::digest(text));
    rows.finish(fingerprint)
}

type TextReader<'a> = csv::Reader<std::io::Cursor<&'a [u8]>>;

fn reader_of(text: &[u8]) -> TextReader<'_> {
    let header = text.split(|&byte| byte == b'\n').next().unwrap_or_default();
    let count = |mark| header.split(|&byte| byte == mark).count();
    let delimiter = [b',', b';', b'\t'].into_iter().rev().max_by_key(|&mark| count(mark));
    csv::ReaderBuilder::new()
        .has_headers(false)
        .flexible(true)
        .delimiter(delimiter.expect("there are three to choose from"))
        .from_reader(std::io::Cursor::new(text))
}

fn read(reader: &mut TextReader<'_>, record: &mut ByteRecord) -> anyhow::Result<bool> {
    reader.read_byte_record(record).context("the file is not CSV")
}

/// Where each of the eight columns stands.
fn positions(header: &ByteRecord) -> anyhow::Result<[usize; 8]> {
    let names: Vec<String> = header.iter().map(|name| letters(&decoded(name))).collect();
    let mut positions = [0; 8];
    for (position, (column, spellings)) in positions.iter_mut().zip(COLUMNS) {
        let found: Vec<usize> =
            (0..names.len()).filter(|&index| spellings.contains(&names[index].as_str())).collect();
        *position = match found[..] {
            [index] => index,
            [] => bail!(
                "line 1 has no column `{column}`: the header must name InvoiceNo, StockCode, \
                 Description, Quantity, InvoiceDate, UnitPrice, CustomerID and Country \
                 (or Invoice, Price, Customer ID)"
            ),
            _ => bail!("line 1 names the column `{column}` twice: keep one of them"),
        };
    }
    Ok(positions)
}

fn letters(text: &str) -> String {
    text.chars().filter(char::is_ascii_alphanumeric).collect::<String>().to_ascii_lowercase()
}

/// UTF-8, or what older exports are written in: Latin-1.
pub(super) fn decoded(bytes: &[u8]) -> std::borrow::Cow<'_, str> {
    match std::str::from_utf8(bytes) {
        Ok(text) => text.into(),
        Err(_) => bytes.iter().map(|&byte| char::from(byte)).collect::<String>().into(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const HEADER: &str =
        "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\n";

    fn history(rows: &str) -> History {
        parse(format!("{HEADER}{rows}").as_bytes()).unwrap()
    }

    #[test]
    fn both_spellings_of_a_year_are_the_same_history() {
        let first = "InvoiceNo,StockCode,Description,Quantity,InvoiceDate,UnitPrice,CustomerID,Country\r\n\
             536365,85123A,\"HEART, WHITE\",6,2010-12-01 08:26:00,2.55,17850.0,United Kingdom\r\n\
             C536379,D,Discount,-1,2010-12-01 09:41:00,27.5,14527.0,EIRE\r\n";
        let second = "\u{feff}Invoice,StockCode,Description,Quantity,InvoiceDate,Price,Customer ID,Country\n\
             536365,85123A,\"HEART, WHITE\",6,12/1/2010 8:26,2.550,17850,United Kingdom\n\
             C536379,D,Discount,-1,12/1/2010 9:41,27.50,14527,EIRE\n";
        let third = "invoice_no;stock_code;description;quantity;invoice_date;unit_price;customer_id;country\n\
             536365;85123A;HEART, WHITE;6;2010-12-01T08:26:00;2,55;17850,0;United Kingdom\n\
             C536379;D;Discount;-1;2010-12-01T09:41:00;27,5;14527,0;EIRE\n";
        let [first, second, third] =
            [first, second, third].map(|text| parse(text.as_bytes()).unwrap());
        assert_eq!(first.invoices, second.invoices);
        assert_eq!(first.invoices, third.invoices);
        let invoice = &first.invoices[0];
        assert_eq!(invoice.customer.as_ref().unwrap().as_str(), "17850");
        assert_eq!(invoice.lines, [Line { sku: 0, quantity: 6, price_parts: 25_500 }]);
        assert_eq!(first.invoices[1].kind, Kind::Cancellation);
        assert_ne!(first.fingerprint, second.fingerprint);
    }

    #[test]
    fn rows_of_an_invoice_need_not_be_neighbors_and_it_stands_at_its_earliest() {
        let history = history(
            "2,A,x,1,2010-12-01 10:00:00,1.0,,France\n\
             1,A,x,1,2010-12-01 09:00:00,1.0,,France\n\
             2,B,y,1,2010-12-01 08:00:00,1.0,,France\n",
        );
        let numbers: Vec<&str> = history.invoices.iter().map(|invoice| &*invoice.number).collect();
        assert_eq!(numbers, ["2", "1"]);
        assert_eq!(history.invoices[0].lines.len(), 2);
    }

    #[test]
    fn a_code_is_called_what_a_line_with_a_price_calls_it() {
        let history = history(
            "1,A,damaged?,-1,2010-12-01 10:00:00,0.0,,United Kingdom\n\
             2,A,,1,2010-12-01 10:00:00,1.0,,United Kingdom\n\
             3,A,RED LAMP,1,2010-12-01 10:00:00,1.0,,United Kingdom\n\
             4,A,BLUE LAMP,1,2010-12-01 10:00:00,1.0,,United Kingdom\n",
        );
        assert_eq!(&*history.skus[0].name, "RED LAMP");
    }

    #[test]
    fn an_unreadable_row_is_counted_and_told_with_line_and_field() {
        let history = history(
            "1,A,x,six,2010-12-01 10:00:00,1.0,,France\n\
             1,A,x,6,yesterday,1.0,,France\n\
             1,A,x,6,2010-12-01 10:00:00,free,,France\n\
             1,,x,6,2010-12-01 10:00:00,1.0,,France\n\
             ,A,x,6,2010-12-01 10:00:00,1.0,,France\n\
             1,A\n\
             1,A\u{0},x,6,2010-12-01 10:00:00,1.0,,France\n\
             1,A,x,6,2010-12-01 10:00:00,1.0,,France\n",
        );
        assert_eq!((history.lines, history.orphans), (8, 1));
        assert_eq!(history.invoices[0].unreadable, 6);
        assert_eq!(history.invoices[0].lines.len(), 1);
        assert_eq!(history.examples[0], "line 2: Quantity is not a whole number");
        assert!(history.examples[1].starts_with("line 3: InvoiceDate"));
    }

    #[test]
    fn a_wrong_file_is_refused_with_what_to_do() {
        let refusal = |text: &str| parse(text.as_bytes()).unwrap_err().to_string();
        assert!(refusal("a,b,c\n1,2,3\n").contains("no column `InvoiceNo`"));
        assert!(refusal(&HEADER.replace("Country", "Invoice")).contains("`InvoiceNo` twice"));
        assert!(refusal(&format!("{HEADER}x,y,z,w\n")).contains("line 2: Quantity"));
    }

    #[test]
    fn descriptions_in_latin_1_are_read() {
        let mut text = HEADER.as_bytes().to_vec();
        text.extend_from_slice(b"1,A,\xa310 VOUCHER,1,2010-12-01 10:00:00,1.0,,France\n");
        assert_eq!(&*parse(&text).unwrap().skus[0].name, "£10 VOUCHER");
    }
}
