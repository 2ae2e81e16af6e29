//! The routes of the service.

use std::sync::Arc;

use axum::extract::{Request, State};
use axum::http::{HeaderValue, header};
use axum::response::Response;
use axum::routing::{get, post};
use axum::{Router, middleware};

use crate::service::{Phase, Service};
use crate::settings::Settings;
use crate::{events, handlers, jobs, monitor, page};
use cofferdam_pool::Pool;

/// The service over `pool` with default settings, for an axum application of your own. All paths are relative, so the
/// router can be nested. Prefer `nest_service("/prefix", …)`: it serves `/prefix` and `/prefix/`, while `nest` serves only
/// `/prefix`.
///
/// # Panics
/// Outside of a tokio runtime.
pub fn router(pool: &Arc<Pool>) -> Router {
    job_router(Service::new(pool, "module", Settings::default()))
}

/// The routes of `service`: `POST /v1/blocks/{height}` and `POST /v1/views/{export}`, and those of [`application_router`].
///
/// # Panics
/// Outside of a tokio runtime.
pub fn job_router(service: Service) -> Router {
    let jobs = Router::new()
        .route("/v1/blocks/{height}", post(jobs::block))
        .route("/v1/views/{export}", post(jobs::view))
        .with_state(service.clone());
    application_router(service, jobs)
}

/// The routes that show the state of `service` (status page, status, events, probes, metrics), merged with the routes of
/// `application`. The application runs jobs with [`Service::call`]. Call `application_router` once for each service, because it
/// starts the task that watches the pool.
///
/// # Panics
/// Outside of a tokio runtime, or if `application` has one of these routes with the method `GET`.
pub fn application_router(service: Service, application: Router) -> Router {
    monitor::start(&service.0);
    Router::new()
        .route("/", get(page::page))
        .route("/v1/status", get(handlers::status))
        .route("/v1/events", get(events::events))
        .route("/livez", get(handlers::livez))
        .route("/readyz", get(handlers::readyz))
        .route("/startupz", get(handlers::startupz))
        .route("/metrics", get(handlers::metrics))
        .with_state(service.clone())
        .merge(application)
        .fallback(handlers::not_found)
        .method_not_allowed_fallback(handlers::method_not_allowed)
        .layer(middleware::from_fn_with_state(service, close_when_draining))
}

/// Asks clients to open a new connection while the service drains. A load balancer then chooses another server for the new
/// connection.
async fn close_when_draining(
    State(service): State<Service>,
    request: Request,
    next: middleware::Next,
) -> Response {
    let mut response = next.run(request).await;
    if matches!(service.phase(), Phase::Draining | Phase::Closing) {
        response.headers_mut().insert(header::CONNECTION, HeaderValue::from_static("close"));
    }
    response
}

#[cfg(test)]
mod tests {
    use axum::body::Body;
    use axum::http::StatusCode;
    use http_body_util::BodyExt;
    use serde_json::{Value, json};
    use tower::ServiceExt;

    use super::*;
    use crate::application::{Application, ApplicationMetric};
    use crate::call::{Call, CallRejection};

    /// An application that is never ready.
    #[derive(Debug)]
    struct Shop;

    impl Application for Shop {
        fn name(&self) -> &'static str {
            "shop"
        }

        fn readiness(&self) -> Result<String, String> {
            Err("it has no goods".to_owned())
        }

        fn status(&self) -> Value {
            json!({ "goods": 0 })
        }

        fn metrics(&self) -> Vec<ApplicationMetric> {
            let metric = |name, counter, value| ApplicationMetric { name, help: "A figure", counter, value };
            vec![metric("shop_goods", false, 0.0), metric("shop_sales", true, 3.0)]
        }
    }

    async fn response(router: &Router, path: &str) -> Response {
        let request = Request::builder().uri(path).body(Body::empty()).unwrap();
        router.clone().oneshot(request).await.unwrap()
    }

    async fn text(router: &Router, path: &str, status: StatusCode) -> String {
        let response = response(router, path).await;
        assert_eq!(response.status(), status, "{path}");
        String::from_utf8(response.into_body().collect().await.unwrap().to_bytes().to_vec()).unwrap()
    }

    #[tokio::test]
    async fn an_application_has_routes_a_check_a_status_and_metrics() {
        let service = Service::starting(Settings::default(), 1024);
        service.set_application(Arc::new(Shop));
        let router =
            application_router(service.clone(), Router::new().route("/goods", get(|| async { "none" })));
        assert_eq!(text(&router, "/goods", StatusCode::OK).await, "none");
        let checks = text(&router, "/readyz?verbose", StatusCode::SERVICE_UNAVAILABLE).await;
        assert!(checks.contains("[-]shop it has no goods\n"), "{checks}");
        let status: Value = serde_json::from_str(&text(&router, "/v1/status", StatusCode::OK).await).unwrap();
        assert_eq!((&status["shop"]["goods"], &status["state"]), (&json!(0), &json!("starting")));
        let metrics = text(&router, "/metrics", StatusCode::OK).await;
        for sample in ["\ncofferdam_shop_goods 0", "\ncofferdam_shop_sales_total 3"] {
            assert!(metrics.contains(sample), "{metrics}");
        }
        let missing = text(&router, "/bads", StatusCode::NOT_FOUND).await;
        assert!(missing.contains("urn:cofferdam:problem:not-found"), "{missing}");
    }

    #[tokio::test]
    async fn a_service_without_a_pool_rejects_calls_and_asks_clients_to_leave_when_it_drains() {
        let service = Service::starting(Settings::default(), 1024);
        let router = job_router(service.clone());
        let call = Call { height: 1, export: None, input: Vec::new(), layers: Vec::new(), base: None };
        let rejection = service.call(call).await.unwrap_err();
        assert!(matches!(rejection, CallRejection::NotServing(_)), "{rejection}");
        assert!(!response(&router, "/livez").await.headers().contains_key(header::CONNECTION));
        service.drain();
        assert_eq!(response(&router, "/livez").await.headers()[header::CONNECTION], "close");
    }
}
