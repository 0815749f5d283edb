//! The table of routes: address, handler, who may call it.
//!
//! A route can only be added together with its [`Access`], which puts the guard in front of the
//! handler and the roles into the OpenAPI document. A test walks the table and proves that no guarded
//! route answers without a token or with a wrong role.

use axum::extract::{Request, State};
use axum::middleware::{Next, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use utoipa::openapi::path::{Operation, PathItem};
use utoipa::openapi::security::{Http, HttpAuthScheme, SecurityRequirement, SecurityScheme};
use utoipa::openapi::{Content, Ref, ResponseBuilder};
use utoipa_axum::router::{OpenApiRouter, UtoipaMethodRouter};

use crate::telemetry::metrics::RouteLabels;

use super::auth::{Caller, Role};
use super::context::Context;
use super::front_door::{FrontDoor, no_such_method, no_such_route};
use super::problem::{Code, FieldError, Problem, ProblemBody};

/// Where the versioned API lives.
pub const BASE_PATH: &str = "/api/v1";

/// Who may call a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anybody who can reach the port: operations endpoints, which tell nothing of customers.
    Public,
    /// Whoever can sign the request: webhooks, whose handler checks the signature.
    Signed,
    /// Tokens of these roles.
    Roles(&'static [Role]),
}

/// Everybody with a token.
pub const ANYBODY: Access = Access::Roles(Role::ALL);
/// Whoever works here, programs included.
pub const INSIDERS: Access = Access::Roles(&[Role::Staff, Role::Service, Role::Admin]);
/// Operators.
pub const OPERATORS: Access = Access::Roles(&[Role::Admin]);

/// One line of the table.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RouteInfo {
    /// The pattern, e.g. `/api/v1/orders/{id}`.
    pub path: &'static str,
    /// The method.
    pub method: &'static str,
    /// Who may call it.
    pub access: Access,
}

/// The table while it is built.
pub struct Routes {
    context: Context,
    router: OpenApiRouter<Context>,
    table: Vec<RouteInfo>,
}

#[derive(Clone)]
struct Guard {
    context: Context,
    route: RouteInfo,
}

impl Routes {
    /// An empty table.
    pub fn new(context: Context) -> Self {
        let mut document = utoipa::openapi::OpenApiBuilder::new()
            .info(
                utoipa::openapi::InfoBuilder::new()
                    .title("Entrepôt")
                    .version(env!("CARGO_PKG_VERSION"))
                    .description(Some(
                        "Orders in several regions. Every answer carries `X-Region`; every refusal \
                         is problem+json with a stable `code`.",
                    ))
                    .build(),
            )
            .build();
        let components = document.components.get_or_insert_default();
        components
            .add_security_scheme("bearer", SecurityScheme::Http(Http::new(HttpAuthScheme::Bearer)));
        let mut shared = Vec::new();
        add_schema::<ProblemBody<'_>>(&mut shared);
        add_schema::<FieldError>(&mut shared);
        components.schemas.extend(shared);
        Self { context, router: OpenApiRouter::with_openapi(document), table: Vec::new() }
    }

    /// Adds one route.
    #[must_use]
    pub fn add(mut self, access: Access, methods: UtoipaMethodRouter<Context>) -> Self {
        let (schemas, mut paths, mut router) = methods;
        assert_eq!(
            paths.paths.len(),
            1,
            "one address and method at a time, so that each has its access"
        );
        for (path, item) in &mut paths.paths {
            let mut found = None;
            for (method, operation) in operations(item) {
                assert!(
                    found.is_none(),
                    "{path}: one method at a time, so that each has its access"
                );
                describe(operation, access);
                found = Some(RouteInfo { path: path.clone().leak(), method, access });
            }
            let route = found.expect("a handler has a method");
            self.table.push(route);
            let guard = Guard { context: self.context.clone(), route };
            router = router.route_layer(from_fn_with_state(guard, pass));
        }
        self.router = self.router.routes((schemas, paths, router));
        self
    }

    /// The table.
    pub fn table(&self) -> &[RouteInfo] {
        &self.table
    }

    /// The door through which all requests come, and the OpenAPI document behind `/openapi.json`.
    pub fn finish(self) -> FrontDoor {
        let (router, mut document) = self.router.split_for_parts();
        document.info.extensions = Some(
            utoipa::openapi::extensions::Extensions::builder()
                .add(
                    "x-error-codes",
                    Code::ALL
                        .iter()
                        .map(|code| {
                            serde_json::json!({"code": code.as_str(), "status": code.status().as_u16(),
                                               "meaning": code.meaning()})
                        })
                        .collect::<serde_json::Value>(),
                )
                .build(),
        );
        let bytes = serde_json::to_vec(&document).expect("the document is made of plain values");
        let fresh = self.context.inner().openapi.set(bytes.into());
        assert!(fresh.is_ok(), "a context has one table of routes");
        let router = router
            .fallback(no_such_route)
            .method_not_allowed_fallback(no_such_method)
            .with_state(self.context.clone());
        FrontDoor::new(self.context, router)
    }
}

fn add_schema<T: utoipa::ToSchema>(
    schemas: &mut Vec<(String, utoipa::openapi::RefOr<utoipa::openapi::Schema>)>,
) {
    schemas.push((T::name().into_owned(), T::schema()));
}

fn operations(item: &mut PathItem) -> impl Iterator<Item = (&'static str, &mut Operation)> {
    [
        ("GET", item.get.as_mut()),
        ("PUT", item.put.as_mut()),
        ("POST", item.post.as_mut()),
        ("PATCH", item.patch.as_mut()),
        ("DELETE", item.delete.as_mut()),
    ]
    .into_iter()
    .filter_map(|(method, operation)| Some((method, operation?)))
}

/// Adds to the document what the guard does.
fn describe(operation: &mut Operation, access: Access) {
    let problem = |description: &str| {
        ResponseBuilder::new()
            .description(description)
            .content(
                "application/problem+json",
                Content::new(Some(Ref::from_schema_name("Problem"))),
            )
            .build()
    };
    let refusals: &[(&str, &str)] = match access {
        Access::Public => &[],
        Access::Signed => &[("401", "`invalid_signature`")],
        Access::Roles(roles) => {
            let scopes: [&str; 0] = [];
            operation.security = Some(vec![SecurityRequirement::new("bearer", scopes)]);
            let names: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
            operation.extensions.get_or_insert_default().merge(
                utoipa::openapi::extensions::Extensions::builder().add("x-roles", names).build(),
            );
            &[
                ("401", "`unauthenticated`"),
                ("403", "`forbidden`"),
                ("429", "`rate_limited`, with `Retry-After`"),
            ]
        }
    };
    for (status, description) in refusals {
        operation
            .responses
            .responses
            .entry((*status).to_owned())
            .or_insert_with(|| problem(description).into());
    }
}

/// The guard: token, role, rate, and the count of the answer.
async fn pass(State(guard): State<Guard>, request: Request, next: Next) -> Response {
    let Guard { context, route } = guard;
    let began_ms = context.clock.monotonic_ms();
    let response = match admit(&context, route.access, request) {
        Ok(request) => next.run(request).await,
        Err(problem) => problem.into_response(),
    };
    let took = std::time::Duration::from_millis(context.clock.monotonic_ms() - began_ms);
    let labels = RouteLabels { route: route.path, method: route.method };
    context.metrics.http_answer(labels, response.status().as_u16(), took);
    response
}

fn admit(context: &Context, access: Access, mut request: Request) -> Result<Request, Problem> {
    match access {
        Access::Public | Access::Signed => {}
        Access::Roles(roles) => {
            let principal = context.verifier.verify(request.headers())?;
            if !roles.contains(&principal.role) {
                let names: Vec<_> = roles.iter().map(|role| role.as_str()).collect();
                return Err(Problem::new(
                    Code::Forbidden,
                    format!(
                        "the role {} may not do this; it takes {}",
                        principal.role,
                        names.join(" or ")
                    ),
                ));
            }
            context.limiter.take(&principal, context.clock.monotonic_ms())?;
            request.extensions_mut().insert(Caller(principal));
        }
    }
    Ok(request)
}
