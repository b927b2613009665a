use std::fmt::Debug;

use pganalytics_core::audit::LeafRow;
use pganalytics_core::audit::order::Removed;

/// The signed orders to erase, as far as a verification asks: whether one of them covers what is missing. Only orders whose
/// signature by the trusted second key was verified may say yes.
pub trait ErasureOrders: Debug + Send + Sync {
    /// Whether an order covers that this is missing of an event.
    fn covers(&self, event: &LeafRow<'_>, removed: Removed) -> bool;
}

/// No orders: whatever is missing was taken.
#[derive(Clone, Copy, Debug, Default)]
pub struct NoOrders;

impl ErasureOrders for NoOrders {
    fn covers(&self, _event: &LeafRow<'_>, _removed: Removed) -> bool {
        false
    }
}
