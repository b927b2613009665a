//! Requests per processor second of the server: a read with the token of a session that is known, beside the same read
//! without one.

use anyhow::Context;
use pganalytics_testkit::{Profile, private_postgres};

use crate::load;
use crate::report::{Better, Round, Summary};
use crate::server::Cluster;

pub(crate) const NAME: &str = "session_check/no_session";

/// A route that anybody may read, and that asks no database. Who asks is found out all the same.
const PATH: &str = "/api/v1/auth/methods";

pub(crate) async fn run(rounds: u32) -> anyhow::Result<Summary> {
    let postgres = private_postgres(Profile::Durable).await.context("PostgreSQL is not installed")?;
    let server = Cluster::prepare(&postgres).await?.serve().await?;
    server.set_up().await?;
    let mut measured = Vec::new();
    // The first round warms up.
    for round in 0..=rounds {
        // An access token lives for five minutes.
        let token = server.sign_in().await?;
        let head = format!("GET {PATH} HTTP/1.1\r\nhost: {}\r\n", server.address());
        let ours = format!("{head}authorization: Bearer {token}\r\n\r\n");
        let ours = load::requests_per_cpu_second(server.pid(), server.address(), &ours).await?;
        let peer = format!("{head}\r\n");
        let peer = load::requests_per_cpu_second(server.pid(), server.address(), &peer).await?;
        if round > 0 {
            measured.push(Round { ours, peer });
        }
    }
    Ok(Summary::of(NAME, "requests a CPU second", Better::More, &measured))
}
