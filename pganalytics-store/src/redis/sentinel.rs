use futures::StreamExt;
use futures::stream::FuturesUnordered;
use pganalytics_core::secret::SecretString;

use super::config::{RedisAddress, RedisTopology};
use super::connector::{Access, Connector, Link, Server};
use super::error::Failure;

type Login = (String, SecretString);

impl Connector {
    /// Connects to the first master that a sentinel names and that says itself that it is one.
    pub(super) async fn master_of(
        &self,
        sentinels: &[RedisAddress],
        master: &str,
        login: Option<&Login>,
        former: Option<&Server>,
    ) -> Result<Link, Failure> {
        // All at the same time, since one that hangs is no reason to wait.
        let asked = sentinels.iter().map(|sentinel| self.ask_sentinel(sentinel, master, login));
        let mut answers: FuturesUnordered<_> = asked.collect();
        let mut tried = Vec::new();
        let mut last = Failure::UnknownMaster(master.to_owned());
        while let Some(answer) = answers.next().await {
            match answer {
                Ok(address) if tried.contains(&address) => {}
                Ok(address) => {
                    match self.server(&address, former).await {
                        Ok(link) => return Ok(link),
                        Err(failure) => last = failure,
                    }
                    tried.push(address);
                }
                Err(failure) => last = failure,
            }
        }
        Err(last)
    }

    /// Whether some sentinel names another master than this one.
    pub(super) async fn is_replaced(&self, current: &RedisAddress) -> bool {
        let RedisTopology::Sentinel { sentinels, master, login } = &self.config.topology else {
            return false;
        };
        let asked = sentinels.iter().map(|sentinel| self.ask_sentinel(sentinel, master, login.as_ref()));
        let mut answers: FuturesUnordered<_> = asked.collect();
        while let Some(answer) = answers.next().await {
            if let Ok(address) = answer {
                return address != *current;
            }
        }
        false
    }

    async fn ask_sentinel(
        &self,
        sentinel: &RedisAddress,
        master: &str,
        login: Option<&Login>,
    ) -> Result<RedisAddress, Failure> {
        let login = login.map(|(username, password)| (username.as_str(), password));
        let mut connection = self.open(sentinel, Access { login, database: 0 }).await?;
        let mut question = redis::cmd("SENTINEL");
        question.arg("get-master-addr-by-name").arg(master);
        let named: Option<(String, u16)> = question.query_async(&mut connection).await?;
        let (host, port) = named.ok_or_else(|| Failure::UnknownMaster(master.to_owned()))?;
        Ok(RedisAddress { host, port })
    }
}
