//! Pages of lists: `?limit=` and `?cursor=`.
//!
//! A cursor is opaque to clients and holds the key of the last item given, so that a page is one index
//! range however deep, and items that come in between neither repeat nor hide others.

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde::Serialize;
use serde::de::DeserializeOwned;

use super::problem::Problem;

/// The size of a page when the client does not say.
pub const LIMIT_DEFAULT: u32 = 50;
/// The largest page.
pub const LIMIT_MAX: u32 = 200;

/// One page of a list.
#[derive(Debug, Clone, Serialize, utoipa::ToSchema)]
pub struct Page<T> {
    /// The items.
    pub items: Vec<T>,
    /// For `?cursor=`; `null` after the last page.
    pub next_cursor: Option<String>,
}

impl<T> Page<T> {
    /// Makes a page of `limit` out of a list that was asked for `limit + 1` items, so that the end is known.
    pub fn cut<K: Serialize>(mut items: Vec<T>, limit: u32, key: impl Fn(&T) -> K) -> Self {
        let limit = usize::try_from(limit).unwrap_or(usize::MAX);
        let more = items.len() > limit;
        items.truncate(limit);
        let next_cursor = items.last().filter(|_| more).map(|last| encode(&key(last)));
        Self { items, next_cursor }
    }

    /// A page that ends at a place of its own.
    pub fn until(items: Vec<T>, next: Option<&impl Serialize>) -> Self {
        Self { items, next_cursor: next.map(encode) }
    }

    /// A list that is short by its nature and has one page.
    pub fn whole(items: Vec<T>) -> Self {
        Self { items, next_cursor: None }
    }
}

/// The page size asked for, within its bounds.
pub fn limit(asked: Option<u32>) -> Result<u32, Problem> {
    match asked {
        None => Ok(LIMIT_DEFAULT),
        Some(limit) if (1..=LIMIT_MAX).contains(&limit) => Ok(limit),
        Some(_) => Err(Problem::invalid("limit", format!("must be between 1 and {LIMIT_MAX}"))),
    }
}

/// The key after which the page begins.
pub fn cursor<K: DeserializeOwned>(asked: Option<&str>) -> Result<Option<K>, Problem> {
    let Some(text) = asked else { return Ok(None) };
    let bytes = URL_SAFE_NO_PAD.decode(text).ok();
    let key = bytes.and_then(|bytes| serde_json::from_slice(&bytes).ok());
    key.map(Some).ok_or_else(|| {
        Problem::invalid("cursor", "is not a cursor of this list; begin again without one")
    })
}

fn encode<K: Serialize>(key: &K) -> String {
    URL_SAFE_NO_PAD.encode(serde_json::to_vec(key).expect("keys are plain values"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pages_add_up_to_the_list() {
        let all: Vec<u32> = (0..7).collect();
        let mut seen = Vec::new();
        let mut asked: Option<String> = None;
        loop {
            let after: Option<u32> = cursor(asked.as_deref()).unwrap();
            let rest = all.iter().copied().filter(|item| after.is_none_or(|after| *item > after));
            let page = Page::cut(rest.take(4).collect(), 3, |item| *item);
            seen.extend(page.items);
            asked = page.next_cursor;
            if asked.is_none() {
                break;
            }
        }
        assert_eq!(seen, all);
        assert_eq!(Page::cut(vec![1, 2, 3], 3, |item| *item).next_cursor, None);
    }

    #[test]
    fn bounds() {
        assert_eq!(limit(None).unwrap(), 50);
        assert_eq!(limit(Some(200)).unwrap(), 200);
        assert!(limit(Some(0)).is_err() && limit(Some(201)).is_err());
        assert!(cursor::<u32>(Some("!")).is_err());
        assert!(cursor::<u32>(Some("e30")).is_err(), "a cursor of another list");
    }
}
