use std::collections::HashMap;
use std::fmt;
use std::hash::Hash;
use std::sync::{Arc, Mutex, MutexGuard};

use tokio::sync::OnceCell;

/// Work that several callers want at the same time, done once for all who wait for it, and forgotten then.
pub(crate) struct Flights<K, V>(Mutex<HashMap<K, Flight<V>>>);

type Landing<V> = Arc<OnceCell<V>>;

struct Flight<V> {
    landing: Landing<V>,
    // How many callers are on it. The last one out removes it.
    callers: usize,
}

impl<K: Clone + Eq + Hash, V> Flights<K, V> {
    /// Takes part in the work for this key.
    pub(crate) fn join(&self, key: &K) -> Seat<'_, K, V> {
        let mut flights = self.lock();
        let flight = match flights.get_mut(key) {
            Some(flight) if !flight.landing.initialized() => flight,
            _ => {
                let flight = Flight { landing: Landing::default(), callers: 0 };
                flights.entry(key.clone()).insert_entry(flight).into_mut()
            }
        };
        flight.callers += 1;
        Seat { flights: self, key: key.clone(), landing: Arc::clone(&flight.landing) }
    }

    #[cfg(test)]
    pub(crate) fn callers(&self, key: &K) -> usize {
        self.lock().get(key).map_or(0, |flight| flight.callers)
    }
}

impl<K, V> Flights<K, V> {
    #[cfg(test)]
    pub(crate) fn is_empty(&self) -> bool {
        self.lock().is_empty()
    }

    fn lock(&self) -> MutexGuard<'_, HashMap<K, Flight<V>>> {
        self.0.lock().expect("no holder panics")
    }
}

impl<K, V> Default for Flights<K, V> {
    fn default() -> Self {
        Self(Mutex::default())
    }
}

// What is in flight may be secret.
impl<K, V> fmt::Debug for Flights<K, V> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Flights").finish_non_exhaustive()
    }
}

/// A caller's part in a flight, given back also when the caller is dropped.
pub(crate) struct Seat<'a, K: Eq + Hash, V> {
    flights: &'a Flights<K, V>,
    key: K,
    landing: Landing<V>,
}

impl<K: Eq + Hash, V> Seat<'_, K, V> {
    /// Does the work, unless another one on the flight does: then waits for what comes of it. A caller that is dropped
    /// meanwhile hands over to the next.
    pub(crate) async fn land<F: Future<Output = V>>(&self, work: impl FnOnce() -> F) -> &V {
        self.landing.get_or_init(work).await
    }
}

impl<K: Eq + Hash, V> Drop for Seat<'_, K, V> {
    fn drop(&mut self) {
        let mut flights = self.flights.lock();
        let Some(flight) = flights.get_mut(&self.key) else { return };
        // After a landing the key may have another flight by now.
        if !Arc::ptr_eq(&flight.landing, &self.landing) {
            return;
        }
        flight.callers -= 1;
        if flight.callers == 0 || self.landing.initialized() {
            flights.remove(&self.key);
        }
    }
}
