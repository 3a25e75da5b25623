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

    /// What a cluster says: `SLURM_ARRAY_TASK_ID` (less `SLURM_ARRAY_TASK_MIN`, in steps of `SLURM_ARRAY_TASK_STEP`, of
    /// `SLURM_ARRAY_TASK_COUNT`), or `JOB_COMPLETION_INDEX` of an indexed Kubernetes job, which does not say of how
    /// many. `count` wins over what the cluster says.
    ///
    /// # Errors
    /// When no cluster says anything, nobody says of how many parts, or the array is not one of even steps.
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
            let step = number("SLURM_ARRAY_TASK_STEP")?.unwrap_or(1);
            let whole = |distance: u32| (distance.checked_rem(step) == Some(0)).then(|| distance / step);
            let index = id.checked_sub(first).and_then(whole).ok_or_else(|| {
                format!(
                    "SLURM_ARRAY_TASK_ID is {id}, which is not SLURM_ARRAY_TASK_MIN {first} and some times \
                     SLURM_ARRAY_TASK_STEP {step}; say I/N"
                )
            })?;
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

        // sbatch --array=MIN-12:STEP
        let stepped = |id, first, step, count| {
            let values = [id, first, step, count];
            let names = ["ID", "MIN", "STEP", "COUNT"].map(|name| format!("SLURM_ARRAY_TASK_{name}"));
            let variables: Vec<(&str, &str)> = names.iter().map(String::as_str).zip(values).collect();
            of(None, &variables)
        };
        for (id, index) in [("0", 0), ("4", 1), ("8", 2), ("12", 3)] {
            assert_eq!(stepped(id, "0", "4", "4"), Shard::new(index, 4));
        }
        assert_eq!(stepped("7", "3", "2", "5"), Shard::new(2, 5));
        assert_eq!(stepped("5", "3", "", "5"), Shard::new(2, 5));
        for (id, first, step) in [("5", "0", "4"), ("4", "0", "0"), ("0", "0", "0"), ("1", "2", "1")] {
            let message = stepped(id, first, step, "4").unwrap_err();
            let place = format!(
                "ID is {id}, which is not SLURM_ARRAY_TASK_MIN {first} and some times SLURM_ARRAY_TASK_STEP"
            );
            assert!(message.contains(&place) && message.ends_with("say I/N"), "{message}");
        }
        // An array with gaps, --array=1,3,7.
        assert!(stepped("7", "1", "1", "3").unwrap_err().contains("no part 6 of 3"));
    }
}
