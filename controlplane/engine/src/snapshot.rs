//! What a plan looks at, read from the registry.

use std::collections::BTreeMap;

use domicile_model::{
    AgentKey, Approvals, Cell, CellId, ClosedCell, Fleet, Jurisdiction, MoveClaim, MoveId, Placement, Region,
    Revision, RouterState, Tenant, World,
};
use domicile_store::codec::decode;
use domicile_store::{Entry, Key, Record, Store};

use crate::brakes::Brakes;
use crate::error::MoveError;

/// A cell and what surrounds it.
pub(crate) struct Snapshot {
    pub(crate) revision: Revision,
    pub(crate) world: Option<World>,
    pub(crate) cell: Cell,
    pub(crate) cell_at: Revision,
    pub(crate) placement: Placement,
    pub(crate) placed_at: Revision,
    /// The move that holds the cell, if one does.
    pub(crate) claimed: Option<MoveId>,
    /// Why a person has closed it, if one has.
    pub(crate) closed: Option<ClosedCell>,
    /// Whose approval changes wait for, and where that was last changed; none: nobody's.
    pub(crate) approvals: Option<(Approvals, Revision)>,
    pub(crate) brakes: Brakes,
    /// Regions, jurisdictions, and the tenants of this cell only.
    pub(crate) fleet: Fleet,
    pub(crate) routers: Vec<RouterState>,
    /// The keys by which the agents of this cell are believed.
    pub(crate) agents: Vec<AgentKey>,
}

impl Snapshot {
    pub(crate) async fn read(store: &dyn Store, id: &CellId) -> Result<Self, MoveError> {
        let keys = [
            Key::World,
            Key::Cell(id.clone()),
            Key::Placement(id.clone()),
            Key::Move(id.clone()),
            Key::Stop,
            Key::Moved(id.clone()),
            Key::Approvals,
            Key::Closed(id.clone()),
        ];
        let (header, entries) = store.read(&keys).await?;
        let [world, cell, placement, claim, stop, moved, approvals, closed] =
            <[Option<Entry>; 8]>::try_from(entries).unwrap_or_default();
        let (Some(cell), Some(placement)) = (cell, placement) else {
            return Err(MoveError::NotFound(format!(
                "there is no cell {id}: `domicile cell list` names them"
            )));
        };
        let mut fleet = Fleet::default();
        for region in all::<Region>(store, "regions/").await? {
            fleet.regions.insert(region.id.clone(), region);
        }
        for jurisdiction in all::<Jurisdiction>(store, "jurisdictions/").await? {
            fleet.jurisdictions.insert(jurisdiction.id.clone(), jurisdiction);
        }
        let tenants = all::<Tenant>(store, "tenants/").await?;
        fleet.tenants = tenants
            .into_iter()
            .filter(|t| t.cell == *id)
            .map(|t| (t.id.clone(), t))
            .collect::<BTreeMap<_, _>>();
        Ok(Self {
            revision: header.revision,
            world: world.map(|e| decode(&e.value)).transpose()?,
            cell_at: cell.modified,
            cell: decode(&cell.value)?,
            placed_at: placement.modified,
            placement: decode(&placement.value)?,
            claimed: claim.map(|e| decode::<MoveClaim>(&e.value)).transpose()?.map(|c| c.moving),
            closed: closed.map(|e| decode(&e.value)).transpose()?,
            approvals: approvals.map(|e| Ok::<_, MoveError>((decode(&e.value)?, e.modified))).transpose()?,
            brakes: Brakes {
                stop: stop.map(|e| decode(&e.value)).transpose()?,
                moved: moved.map(|e| decode(&e.value)).transpose()?,
                freezes: all(store, "freezes/").await?,
            },
            fleet,
            routers: all(store, "routers/").await?,
            agents: all(store, &format!("agents/{id}/")).await?,
        })
    }
}

/// All records under a prefix. A single unreadable one is an error: a plan that overlooks a tenant is worse than none.
pub(crate) async fn all<T: Record>(store: &dyn Store, prefix: &str) -> Result<Vec<T>, MoveError> {
    let listing = store.list(prefix).await?;
    listing.entries.iter().map(|e| decode(&e.value).map_err(MoveError::from)).collect()
}
