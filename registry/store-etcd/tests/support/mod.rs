//! The suite's harness on a real cluster: each case gets a prefix of its own.

use std::net::SocketAddr;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;

use async_trait::async_trait;
use domicile_model::Revision;
use domicile_model::clock::pause;
use domicile_store::Store;
use domicile_store::conformance::Harness;
use domicile_store_etcd::{EtcdConfig, EtcdStore};
use etcd_client::Client;

/// A case's view of a cluster.
pub(crate) struct Etcd {
    config: EtcdConfig,
    /// Around every link and every limit.
    raw: Client,
}

impl Etcd {
    /// A fresh prefix, reached at `endpoints`; what happens behind the store's back goes to `direct`.
    pub(crate) async fn new(endpoints: Vec<SocketAddr>, direct: SocketAddr) -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(1);
        let mut config = EtcdConfig::new(endpoints.iter().map(ToString::to_string).collect());
        config.prefix = format!("/case-{}/", NEXT.fetch_add(1, Ordering::Relaxed));
        // The suite is about answers, not about how soon they come from a machine that is busy with other tests.
        config.call_timeout = Duration::from_secs(5);
        let raw = Client::connect([direct.to_string()], None).await.expect("a client");
        Self { config, raw }
    }
}

#[async_trait]
impl Harness for Etcd {
    async fn store(&self) -> Arc<dyn Store> {
        Arc::new(EtcdStore::connect(self.config.clone()).await.expect("addresses"))
    }

    fn prefix(&self) -> String {
        self.config.prefix.clone()
    }

    async fn put_raw(&self, whole: &str, value: &[u8]) {
        self.raw.clone().put(whole, value, None).await.expect("a put");
    }

    async fn compact(&self, revision: Revision) {
        self.raw.clone().compact(revision.0, None).await.expect("a compaction");
    }

    async fn pass(&self, time: Duration) {
        pause(time).await;
    }
}
