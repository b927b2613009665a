use pganalytics_core::cache::Cache;
use pganalytics_core::notifier::Notifier;
use pganalytics_core::testing::Subject;
use pganalytics_testkit::{redis, redis_cluster, redis_sentinel};

use crate::servers::{cache, cluster, guarded, notifier, sentinel, single};

mod one_server {
    use super::*;

    async fn cache_on_one() -> Option<Subject<dyn Cache>> {
        let server = redis(None).await?;
        Some(Subject::real_time(cache(single(&server))).keeping(server))
    }

    pganalytics_core::cache_contract!(cache_on_one());
}

mod with_tls_and_a_user {
    use super::*;

    async fn cache_with_tls() -> Option<Subject<dyn Cache>> {
        let (server, config) = guarded().await?;
        Some(Subject::real_time(cache(config)).keeping(server))
    }

    pganalytics_core::cache_contract!(cache_with_tls());
}

mod behind_a_sentinel {
    use super::*;

    async fn cache_behind_a_sentinel() -> Option<Subject<dyn Cache>> {
        let servers = redis_sentinel(1).await?;
        Some(Subject::real_time(cache(sentinel(&servers))).keeping(servers))
    }

    pganalytics_core::cache_contract!(cache_behind_a_sentinel());
}

mod in_a_cluster {
    use super::*;

    async fn cache_in_a_cluster() -> Option<Subject<dyn Cache>> {
        let nodes = redis_cluster().await?;
        Some(Subject::real_time(cache(cluster(&nodes))).keeping(nodes))
    }

    pganalytics_core::cache_contract!(cache_in_a_cluster());
}

mod notifications {
    use super::*;

    async fn notifier_on_one() -> Option<Subject<dyn Notifier>> {
        let server = redis(None).await?;
        Some(Subject::real_time(notifier(single(&server))).keeping(server))
    }

    pganalytics_core::notifier_contract!(notifier_on_one());

    mod with_tls_and_a_user {
        use super::*;

        async fn notifier_with_tls() -> Option<Subject<dyn Notifier>> {
            let (server, config) = guarded().await?;
            Some(Subject::real_time(notifier(config)).keeping(server))
        }

        pganalytics_core::notifier_contract!(notifier_with_tls());
    }

    mod in_a_cluster {
        use super::*;

        async fn notifier_in_a_cluster() -> Option<Subject<dyn Notifier>> {
            let nodes = redis_cluster().await?;
            Some(Subject::real_time(notifier(cluster(&nodes))).keeping(nodes))
        }

        pganalytics_core::notifier_contract!(notifier_in_a_cluster());
    }
}
