//! Changes of accounts.

use redb::ReadableTable as _;

use super::{Decider, Decision, Undecided};
use crate::{
    change::{AccountChange, Done, KeyNumber},
    record::Op,
    refusal::Refusal,
    rows::{self, Account, Container, keys},
};

impl Decider<'_, '_, '_> {
    pub(super) fn account(&self, name: &str, change: &AccountChange) -> Decision {
        let key = keys::account(name);
        let old: Option<Account> = self.row(&key)?;
        let account = match (change, old) {
            (AccountChange::Create(new), None) => {
                let is_letter = |c: char| c.is_ascii_lowercase() || c.is_ascii_digit();
                if !(3..=24).contains(&name.len()) || !name.chars().all(is_letter) {
                    return Err(Refusal::InvalidName.into());
                }
                Account {
                    kind: new.kind,
                    redundancy: new.redundancy,
                    keys: new.keys.clone(),
                    rules: new.rules,
                    created: self.moment.now,
                }
            }
            (AccountChange::Create(_), Some(_)) => return Err(Refusal::AccountExists.into()),
            (_, None) => return Err(Refusal::AccountNotFound.into()),
            (AccountChange::Delete, Some(_)) => {
                let mut ops = self.delete_containers(name)?;
                ops.push(Op::Remove { key });
                return Ok((ops, Done::default()));
            }
            (AccountChange::SetKey(number, new), Some(mut account)) => {
                let [first, second] = &mut account.keys;
                match number {
                    KeyNumber::First => first.clone_from(new),
                    KeyNumber::Second => second.clone_from(new),
                }
                account
            }
            (AccountChange::SetRules(rules), Some(account)) => Account { rules: *rules, ..account },
            (AccountChange::SetRedundancy(redundancy), Some(account)) => {
                Account { redundancy: *redundancy, ..account }
            }
        };
        Ok((vec![Op::Put { key, value: rows::encode(&account) }], Done::default()))
    }

    fn delete_containers(&self, account: &str) -> Result<Vec<Op>, Undecided> {
        let prefix = [b"c", account.as_bytes(), b"/"].concat();
        let end = keys::behind(&prefix);
        let mut ops = Vec::new();
        for row in self.applier.tables.names.range(prefix.as_slice()..end.as_slice())? {
            let (key, value) = row?;
            let container: Container = rows::decode(key.value(), value.value())?;
            ops.push(Op::Remove { key: key.value().to_vec() });
            ops.push(Op::Put { key: keys::doomed(container.id), value: Vec::new() });
        }
        Ok(ops)
    }
}
