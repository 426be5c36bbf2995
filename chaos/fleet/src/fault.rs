//! What can befall a cell's primary side, and how it is mended.

use crate::control::{Control, LinkAct, RegionAct, UnitAct};
use crate::fleet::{FleetFile, Kind};

/// Something that befalls the region that holds a cell. After each of them a forced move is the way on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, serde::Serialize)]
#[serde(rename_all = "kebab-case")]
pub enum Fault {
    /// Everything in it dies at once.
    RegionKilled,
    /// Nothing comes in or goes out. Everything in it lives on, and must stop by itself.
    RegionCut,
    /// It hears the others, and is not heard.
    RegionMute,
    /// A hypervisor stops all of it, and wakes it when another region serves.
    RegionPaused,
    /// The database and its agent die; gates, application and links around them are well.
    DatabaseKilled,
}

impl Fault {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::RegionKilled, Self::RegionCut, Self::RegionMute, Self::RegionPaused, Self::DatabaseKilled];

    /// What a person would type for it.
    #[must_use]
    pub fn command(self, cell: &str, region: &str) -> String {
        match self {
            Self::RegionKilled => format!("domicile-chaos region kill {region}"),
            Self::RegionCut => format!("domicile-chaos region cut {region}"),
            Self::RegionMute => format!("domicile-chaos link cut {region} <every other region> --one-way"),
            Self::RegionPaused => format!("domicile-chaos pause <everything in {region}>"),
            Self::DatabaseKilled => format!("domicile-chaos kill agent-{cell}-{region}"),
        }
    }

    /// Whether users notice that their way in is gone where there is one in the region.
    #[must_use]
    pub const fn takes_the_edge(self) -> bool {
        !matches!(self, Self::DatabaseKilled)
    }

    /// Lets it happen.
    ///
    /// # Errors
    /// When the supervisor can't do it.
    pub async fn strike(
        self,
        control: &Control,
        fleet: &FleetFile,
        cell: &str,
        region: &str,
    ) -> anyhow::Result<()> {
        match self {
            Self::RegionKilled => control.region(RegionAct::Kill, region).await.map(drop),
            Self::RegionCut => control.region(RegionAct::Cut, region).await.map(drop),
            Self::RegionMute => mute(control, fleet, region, LinkAct::Cut).await,
            Self::RegionPaused => each(control, fleet, region, UnitAct::Pause).await,
            Self::DatabaseKilled => {
                control.unit(UnitAct::Kill, &format!("agent-{cell}-{region}")).await.map(drop)
            }
        }
    }

    /// Ends it.
    ///
    /// # Errors
    /// When the supervisor can't do it.
    pub async fn mend(
        self,
        control: &Control,
        fleet: &FleetFile,
        cell: &str,
        region: &str,
    ) -> anyhow::Result<()> {
        match self {
            Self::RegionKilled => control.region(RegionAct::Start, region).await.map(drop),
            Self::RegionCut => control.region(RegionAct::Heal, region).await.map(drop),
            Self::RegionMute => mute(control, fleet, region, LinkAct::Heal).await,
            Self::RegionPaused => each(control, fleet, region, UnitAct::Resume).await,
            Self::DatabaseKilled => {
                control.unit(UnitAct::Start, &format!("agent-{cell}-{region}")).await.map(drop)
            }
        }
    }
}

/// What the region sends to any other one.
async fn mute(control: &Control, fleet: &FleetFile, region: &str, act: LinkAct) -> anyhow::Result<()> {
    let others: std::collections::BTreeSet<&str> =
        fleet.units.iter().map(|u| u.region.as_str()).filter(|r| *r != region).collect();
    for other in others {
        control.link(act, region, other, act == LinkAct::Cut).await?;
    }
    Ok(())
}

/// All that stands in the region, the databases last: what is stopped before its neighbours can't tell.
async fn each(control: &Control, fleet: &FleetFile, region: &str, act: UnitAct) -> anyhow::Result<()> {
    let there = |kind: fn(Kind) -> bool| {
        fleet.units.iter().filter(move |u| u.region == region && kind(u.kind)).map(|u| u.name.as_str())
    };
    for unit in there(|kind| kind != Kind::Database).chain(there(|kind| kind == Kind::Database)) {
        control.unit(act, unit).await?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn all_are_all() {
        // Fails to compile when one is added, and so reminds of `ALL`.
        let number = |fault: &Fault| match fault {
            Fault::RegionKilled => 0,
            Fault::RegionCut => 1,
            Fault::RegionMute => 2,
            Fault::RegionPaused => 3,
            Fault::DatabaseKilled => 4,
        };
        assert_eq!(Fault::ALL.iter().map(number).collect::<Vec<_>>(), [0, 1, 2, 3, 4]);
    }
}
