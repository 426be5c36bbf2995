//! What a registry holds, decoded: everything in it, or the sentences that say what can't be used.

use std::collections::{BTreeMap, BTreeSet};

use domicile_engine::record::{LogRecord, Workflow};
use domicile_model::fleet::HostClaim;
use domicile_model::invariants::epoch_rises;
use domicile_model::validate::violations;
use domicile_model::{
    AgentKey, Approvals, BarredWitness, Cell, CellId, ClosedCell, EmergencyStop, Fleet, Freeze, HostPattern,
    Jurisdiction, MoveClaim, MoveId, Moved, Placement, Region, RegionFence, RevokedKey, RouterState, Tenant,
    TenantId, WitnessRenewal, WitnessState, World,
};
use domicile_server::audit::AuditEntry;
use domicile_store::codec::decode;
use domicile_store::lead::LeaderRecord;
use domicile_store::world::Schema;
use domicile_store::{CodecError, Key, Record};

/// A registry's content, as far as a restore needs it.
#[derive(Debug, Clone, Default)]
pub struct Content {
    /// Its world.
    pub world: Option<World>,
    /// Its layout.
    pub schema: Option<Schema>,
    /// Regions, jurisdictions, cells, tenants, the approval policy.
    pub fleet: Fleet,
    /// Who holds what.
    pub placements: BTreeMap<CellId, Placement>,
    /// Who holds which name.
    pub hosts: BTreeMap<HostPattern, TenantId>,
    /// Routers that can vouch, with where they answer.
    pub witnesses: Vec<WitnessState>,
    /// Moves that had not ended, and their cells.
    pub unfinished: BTreeMap<MoveId, CellId>,
    /// What is wrong, in sentences.
    pub wrong: Vec<String>,
}

impl Content {
    /// Decodes everything, and applies the rules of the model to it.
    #[must_use]
    pub fn of<'a>(entries: impl Iterator<Item = (&'a Key, &'a [u8])>) -> Self {
        let mut content = Self::default();
        for (key, value) in entries {
            if let Err(error) = content.take(key, value) {
                let why = std::error::Error::source(&error).map(|s| format!(": {s}")).unwrap_or_default();
                content.wrong.push(format!("{key}: {error}{why}"));
            }
        }
        content.judge();
        content
    }

    fn take(&mut self, key: &Key, value: &[u8]) -> Result<(), CodecError> {
        fn checked<T: Record>(value: &[u8]) -> Result<(), CodecError> {
            decode::<T>(value).map(drop)
        }
        match key {
            Key::Schema => self.schema = Some(decode(value)?),
            Key::World => self.world = Some(decode(value)?),
            Key::Leader => checked::<LeaderRecord>(value)?,
            Key::Region(id) => drop(self.fleet.regions.insert(id.clone(), decode::<Region>(value)?)),
            Key::Jurisdiction(id) => {
                drop(self.fleet.jurisdictions.insert(id.clone(), decode::<Jurisdiction>(value)?));
            }
            Key::Cell(id) => drop(self.fleet.cells.insert(id.clone(), decode::<Cell>(value)?)),
            Key::Tenant(id) => drop(self.fleet.tenants.insert(id.clone(), decode::<Tenant>(value)?)),
            Key::Host(pattern) => {
                drop(self.hosts.insert(pattern.clone(), decode::<HostClaim>(value)?.tenant));
            }
            Key::Placement(id) => drop(self.placements.insert(id.clone(), decode(value)?)),
            Key::Fence(_) => checked::<RegionFence>(value)?,
            Key::Move(_) => checked::<MoveClaim>(value)?,
            Key::Stop => checked::<EmergencyStop>(value)?,
            Key::Closed(_) => checked::<ClosedCell>(value)?,
            Key::Approvals => self.fleet.approvals = Some(decode::<Approvals>(value)?),
            Key::Freeze(_) => checked::<Freeze>(value)?,
            Key::Moved(_) => checked::<Moved>(value)?,
            Key::Witness(_) => self.witnesses.push(decode(value)?),
            Key::Renewal(_) => checked::<WitnessRenewal>(value)?,
            Key::Barred(_) => checked::<BarredWitness>(value)?,
            Key::Router(_) => checked::<RouterState>(value)?,
            Key::RevokedKey(_) => checked::<RevokedKey>(value)?,
            Key::Agent(..) => checked::<AgentKey>(value)?,
            Key::Workflow(id) => {
                let flow: Workflow = decode(value)?;
                if !flow.status.is_final() {
                    self.unfinished.insert(*id, flow.cell);
                }
            }
            Key::WorkflowLog(..) => checked::<LogRecord>(value)?,
            Key::Audit(_) => checked::<AuditEntry>(value)?,
            // Kept as they stand: of several kinds, some of them of removed things, for people; and the archive's own.
            Key::History(..) | Key::ArchiveHead | Key::ArchiveKey(_) | Key::ArchiveCopy(_) => drop(
                serde_json::from_slice::<serde_json::Value>(value)
                    .map_err(|source| CodecError::Malformed { what: "history", source })?,
            ),
        }
        Ok(())
    }

    fn judge(&mut self) {
        let mut wrong = Vec::new();
        match self.schema {
            None => wrong.push("schema: it is missing".to_owned()),
            Some(s) if s.layout > Schema::CURRENT.layout => wrong.push(format!(
                "schema: it has layout {}, this program knows {}: upgrade it",
                s.layout,
                Schema::CURRENT.layout
            )),
            Some(_) => {}
        }
        match &self.world {
            None => wrong.push("world: it is missing".to_owned()),
            Some(world) => {
                if let Some(problem) = world.constants.problem() {
                    wrong.push(format!("world: the fence constants are not usable: {problem}"));
                }
            }
        }
        wrong
            .extend(violations(&self.fleet).into_iter().map(|v| format!("{}: {}", v.path.join("."), v.what)));
        for (id, placement) in &self.placements {
            wrong.extend(misplaced(id, placement, self.fleet.cells.get(id)));
        }
        let placed: BTreeSet<_> = self.placements.keys().collect();
        for cell in self.fleet.cells.keys().filter(|c| !placed.contains(c)) {
            wrong.push(format!("cells/{cell}: it has no placement"));
        }
        for tenant in self.fleet.tenants.values() {
            for host in tenant.hosts.iter().filter(|h| self.hosts.get(*h) != Some(&tenant.id)) {
                wrong.push(format!(
                    "tenants/{}: it names the host {host}, which is not claimed for it",
                    tenant.id
                ));
            }
        }
        self.wrong.extend(wrong);
    }
}

/// What is wrong with a placement, by the rules that hold for each one alone.
fn misplaced(id: &CellId, placement: &Placement, cell: Option<&Cell>) -> Vec<String> {
    let mut wrong = Vec::new();
    if placement.cell != *id {
        wrong.push(format!("placements/{id}: it is of cell {}", placement.cell));
    }
    if let Err(broken) = epoch_rises(placement, placement) {
        wrong.push(format!("placements/{id}: {broken}"));
    }
    let Some(cell) = cell else {
        wrong.push(format!("placements/{id}: there is no such cell"));
        return wrong;
    };
    for region in placement.holder.iter().chain(&placement.standby).filter(|r| cell.other(r).is_none()) {
        wrong.push(format!("placements/{id}: {region} is neither its primary nor its DR region"));
    }
    wrong
}
