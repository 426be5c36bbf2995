//! One connection: what is known of it, and its life.

use std::net::SocketAddr;
use std::sync::Arc;

use async_trait::async_trait;
use pingora_core::apps::{HttpServerApp, HttpServerOptions, ReusedHttpStream, ServerApp};
use pingora_core::protocols::http::ServerSession;
use pingora_core::protocols::http::v2::server::H2Options;
use pingora_core::server::ShutdownWatch;
use pingora_proxy::HttpProxy;

use crate::serve::Router;
use crate::tls::Secure;

tokio::task_local! {
    static CONNECTION: Arc<Connection>;
}

/// What is known of a connection.
#[derive(Debug)]
pub struct Connection {
    /// Who speaks.
    pub client: SocketAddr,
    /// What TLS says of it; none in the clear.
    pub secure: Option<Secure>,
}

impl Connection {
    /// The connection that the present request came over. None outside of one.
    #[must_use]
    pub fn current() -> Option<Arc<Self>> {
        CONNECTION.try_with(Clone::clone).ok()
    }
}

/// Pingora's proxy, for one connection: each of its requests knows what it came over.
pub struct Over {
    connection: Arc<Connection>,
    proxy: Arc<HttpProxy<Router>>,
}

impl Over {
    /// Serves HTTP over it until it ends.
    pub async fn serve(
        connection: Arc<Connection>,
        proxy: Arc<HttpProxy<Router>>,
        stream: super::stream::ClientStream,
        closing: &ShutdownWatch,
    ) {
        Arc::new(Self { connection, proxy }).process_new(Box::new(stream), closing).await;
    }
}

#[async_trait]
impl HttpServerApp for Over {
    async fn process_new_http(
        self: &Arc<Self>,
        session: ServerSession,
        shutdown: &ShutdownWatch,
    ) -> Option<ReusedHttpStream> {
        CONNECTION.scope(self.connection.clone(), self.proxy.process_new_http(session, shutdown)).await
    }

    fn h2_options(&self) -> Option<H2Options> {
        self.proxy.h2_options()
    }

    fn server_options(&self) -> Option<&HttpServerOptions> {
        self.proxy.server_options()
    }
}
