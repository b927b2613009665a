use crate::redis::{START_LIMIT, redis_with};
use crate::{Redis, RedisOptions, free_port, wait_until};

const NODES: u16 = 3;
const SLOTS: u16 = 16_384;

/// Three masters that share the keys, without replicas.
#[derive(Debug)]
pub struct RedisCluster {
    /// The masters.
    pub nodes: Vec<Redis>,
}

impl RedisCluster {
    /// The masters' ports on 127.0.0.1.
    #[must_use]
    pub fn ports(&self) -> Vec<u16> {
        self.nodes.iter().map(Redis::port).collect()
    }
}

/// A cluster of its own for one test. `None` when Redis is not installed.
///
/// # Panics
/// When it does not start, or Redis is not installed but required.
pub async fn redis_cluster() -> Option<RedisCluster> {
    let mut nodes = Vec::new();
    let mut buses = Vec::new();
    for _ in 0..NODES {
        let bus = free_port();
        let options = RedisOptions::new()
            .with_setting("cluster-enabled", "yes")
            .with_setting("cluster-node-timeout", "1000")
            .with_setting("cluster-port", &bus.to_string());
        nodes.push(redis_with(options).await?);
        buses.push(bus);
    }
    for (index, node) in (0..NODES).zip(&nodes) {
        let share = SLOTS.div_ceil(NODES);
        let (first, last) = (index * share, (index * share + share).min(SLOTS) - 1);
        let mut commands =
            format!("CLUSTER ADDSLOTSRANGE {first} {last}\r\nCLUSTER SET-CONFIG-EPOCH {}", index + 1);
        if index > 0 {
            commands += &format!("\r\nCLUSTER MEET 127.0.0.1 {} {}", nodes[0].port(), buses[0]);
        }
        let reply = node.ask(&commands).await;
        assert!(!reply.contains("-ERR"), "the cluster is not made: {reply}");
    }
    let ready = wait_until(START_LIMIT, async || {
        for node in &nodes {
            let info = node.ask("CLUSTER INFO").await;
            if !(info.contains("cluster_state:ok") && info.contains("cluster_known_nodes:3")) {
                return false;
            }
        }
        true
    });
    assert!(ready.await, "the cluster does not come up: {}", nodes[0].process().log());
    Some(RedisCluster { nodes })
}
