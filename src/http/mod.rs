//! The public HTTP API: routes, extractors, DTOs, problem+json.
