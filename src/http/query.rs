//! Query strings and path parameters, as strict as bodies.

use axum::extract::rejection::PathRejection;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;

use super::problem::Problem;
use super::text;

/// The query as `T`; an unknown parameter, a doubled one or one of the wrong form is 422 with its name.
#[derive(Debug, Clone)]
pub struct StrictQuery<T>(pub T);

impl<T, S> FromRequestParts<S> for StrictQuery<T>
where
    T: DeserializeOwned,
    S: Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, _: &S) -> Result<Self, Problem> {
        parse(&parts.uri).map(Self)
    }
}

fn parse<T: DeserializeOwned>(uri: &axum::http::Uri) -> Result<T, Problem> {
    let pairs = Query::<Vec<(String, String)>>::try_from_uri(uri)
        .map_err(|_| Problem::invalid("", "the query can't be read"))?;
    for (name, value) in &pairs.0 {
        if let Some(message) = text::fault(name, value) {
            return Err(Problem::invalid(name.as_str(), message));
        }
    }
    Query::<T>::try_from_uri(uri).map(|Query(value)| value).map_err(|error| {
        let message = error.body_text();
        // "Failed to deserialize query string: <field>: <what>" or without the field.
        let what = message.split_once(": ").map_or(message.as_str(), |(_, what)| what);
        let named = ["unknown field `", "missing field `", "duplicate field `"]
            .iter()
            .find_map(|prefix| Some(what.split_once(prefix)?.1.split('`').next()?.to_owned()));
        match (named, what.split_once(": ")) {
            (Some(field), _) => Problem::invalid(field, "is unknown, missing or given twice"),
            (None, Some((field, why))) => Problem::invalid(field, why),
            (None, None) => Problem::invalid("", what),
        }
    })
}

/// A path parameter as `T`. One that can't be a `T` names nothing: 404.
#[derive(Debug, Clone)]
pub struct PathId<T>(pub T);

impl<T, S> FromRequestParts<S> for PathId<T>
where
    T: std::str::FromStr + Send,
    S: Send + Sync,
{
    type Rejection = Problem;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Problem> {
        let text: Result<Path<String>, PathRejection> =
            Path::from_request_parts(parts, state).await;
        let parsed = text.ok().and_then(|Path(text)| text.parse().ok());
        parsed.map(Self).ok_or_else(|| Problem::not_found("id"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde::Deserialize;

    #[derive(Debug, Default, PartialEq, Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Filter {
        limit: Option<u32>,
        status: Option<String>,
    }

    #[expect(clippy::unwrap_in_result, reason = "what the test itself brings is sound")]
    fn of(query: &str) -> Result<Filter, String> {
        let uri = format!("/orders?{query}").parse().unwrap();
        parse(&uri).map_err(|problem: Problem| problem.errors[0].field.clone())
    }

    #[test]
    fn parameters_are_checked_by_name() {
        let good = Filter { limit: Some(7), status: Some("a b".to_owned()) };
        assert_eq!(of("limit=7&status=a+b"), Ok(good));
        assert_eq!(of(""), Ok(Filter::default()));
        assert_eq!(of("limt=7"), Err("limt".to_owned()));
        assert_eq!(of("limit=7&limit=8"), Err("limit".to_owned()));
        assert_eq!(of("limit=-1"), Err("limit".to_owned()));
        assert_eq!(of("status=%00"), Err("status".to_owned()));
    }
}
