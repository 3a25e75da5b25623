//! One of several parts of a job, each computed by a process of its own.

use super::ids::key;
use std::fmt;
use std::str::FromStr;

/// Part `index` of `count`. Which part a request belongs to depends on its id alone, so that all parts together
/// are the whole job whatever the order of its lines.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Shard {
    index: u32,
    count: u32,
}

impl Shard {
    /// The whole job.
    pub const WHOLE: Self = Self { index: 0, count: 1 };

    /// Part `index`, from 0, of `count`.
    ///
    /// # Errors
    /// When there is no such part.
    pub fn new(index: u32, count: u32) -> Result<Self, String> {
        if index < count {
            Ok(Self { index, count })
        } else {
            Err(format!("there is no part {index} of {count}; parts are counted from 0"))
        }
    }

    /// What a cluster says: `SLURM_ARRAY_TASK_ID` (less `SLURM_ARRAY_TASK_MIN`, of `SLURM_ARRAY_TASK_COUNT`), or
    /// `JOB_COMPLETION_INDEX` of an indexed Kubernetes job, which does not say of how many. `count` wins over
    /// what the cluster says.
    ///
    /// # Errors
    /// When no cluster says anything, or nobody says of how many parts.
    pub fn from_cluster(
        count: Option<u32>,
        variable: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, String> {
        let number = |name: &str| match variable(name).filter(|value| !value.is_empty()) {
            None => Ok(None),
            Some(value) => match value.parse::<u32>() {
                Ok(number) => Ok(Some(number)),
                Err(_) => Err(format!("{name} is {value:?}, wants a whole number")),
            },
        };
        let (index, of) = if let Some(id) = number("SLURM_ARRAY_TASK_ID")? {
            let first = number("SLURM_ARRAY_TASK_MIN")?.unwrap_or(0);
            let index = id.checked_sub(first);
            let index = index
                .ok_or_else(|| format!("SLURM_ARRAY_TASK_ID is {id}, below SLURM_ARRAY_TASK_MIN {first}"))?;
            (index, number("SLURM_ARRAY_TASK_COUNT")?)
        } else if let Some(index) = number("JOB_COMPLETION_INDEX")? {
            (index, None)
        } else {
            return Err("neither SLURM_ARRAY_TASK_ID nor JOB_COMPLETION_INDEX is set; say I/N".into());
        };
        let count = count.or(of).ok_or("of how many parts is not known; say auto/N")?;
        Self::new(index, count)
    }

    /// Whether the request known as `id` belongs to this part.
    pub fn contains(&self, id: &str) -> bool {
        let key = key(id);
        let number = u64::from_le_bytes(key[8..].try_into().expect("a key has 16 bytes"));
        number % u64::from(self.count) == u64::from(self.index)
    }
}

impl fmt::Display for Shard {
    fn fmt(&self, f: &mut fmt::Formatter) -> fmt::Result {
        write!(f, "{}/{}", self.index, self.count)
    }
}

impl FromStr for Shard {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let parts = text.split_once('/').and_then(|(i, n)| Some((i.parse().ok()?, n.parse().ok()?)));
        let (index, count) = parts.ok_or("wants I/N with I from 0 to N - 1, e.g. 0/4")?;
        Self::new(index, count)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_request_has_one_part_of_fair_size() {
        let shards: Vec<Shard> = (0..3).map(|i| Shard::new(i, 3).unwrap()).collect();
        let mut sizes = [0; 3];
        for i in 0..3000 {
            let id = format!("r{i}");
            let mine: Vec<usize> = (0..3).filter(|&s| shards[s].contains(&id)).collect();
            assert_eq!(mine.len(), 1);
            sizes[mine[0]] += 1;
            assert!(Shard::WHOLE.contains(&id));
        }
        assert!(sizes.iter().all(|size| (900..1100).contains(size)), "{sizes:?}");
    }

    #[test]
    fn parts_read() {
        assert_eq!("2/4".parse(), Shard::new(2, 4));
        assert_eq!(Shard::new(2, 4).unwrap().to_string(), "2/4");
        for bad in ["", "1", "4/4", "0/0", "-1/2", "1/2/3", "a/b"] {
            assert!(bad.parse::<Shard>().is_err(), "{bad}");
        }
    }

    #[test]
    fn clusters_are_heard() {
        let of = |count, variables: &[(&str, &str)]| {
            let variables: Vec<(String, String)> =
                variables.iter().map(|&(n, v)| (n.to_owned(), v.to_owned())).collect();
            Shard::from_cluster(count, &move |name| {
                variables.iter().find(|(n, _)| n == name).map(|(_, value)| value.clone())
            })
        };
        let slurm =
            [("SLURM_ARRAY_TASK_ID", "5"), ("SLURM_ARRAY_TASK_MIN", "3"), ("SLURM_ARRAY_TASK_COUNT", "4")];
        assert_eq!(of(None, &slurm), Shard::new(2, 4));
        assert_eq!(of(Some(7), &slurm), Shard::new(2, 7));
        let kubernetes = [("JOB_COMPLETION_INDEX", "1")];
        assert_eq!(of(Some(2), &kubernetes), Shard::new(1, 2));
        assert!(of(None, &kubernetes).unwrap_err().contains("auto/N"));
        assert!(of(Some(2), &[]).unwrap_err().contains("is set"));
        assert!(of(Some(2), &[("SLURM_ARRAY_TASK_ID", "x")]).is_err());
        assert!(of(Some(2), &[("SLURM_ARRAY_TASK_ID", "2")]).is_err());
    }
}
