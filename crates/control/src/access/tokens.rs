//! Tokens: made, recognised, listed, revoked.
//!
//! A token narrows its user's rights and never widens them. One that is made with another is within
//! it: it may no more, ends no later, and is revoked with it. With the user's password a token is
//! made that stands for itself. A token that is narrower than its user sees and revokes itself and
//! what was made with it, and no other. When a token ends is judged by trusted time: a clock that
//! jumps ahead and comes back ends none.

use std::{
    collections::{BTreeMap, BTreeSet, btree_map::Entry},
    sync::Arc,
};

use jiff::{SignedDuration, Timestamp};
use serde_json::json;
use strongroom_api::{
    self as api, Assignment, Scope, Token, TokenCreate, TokenIssued, User, WhoAmI,
};
use strongroom_base::{EntropyExt as _, ItemId, Message, TokenId, UserId, VaultId, codes, message};
use strongroom_catalog::{Filter, Query, ReadTx, Tx};

use super::known::{Holder, Moment};
use crate::{
    audit,
    error::{ControlError, Result},
    lookup::{assignments_of, find_item, find_user, no_item},
    model::{ItemDoc, TokenDoc, UserDoc},
    page::{PageRequest, page},
    rights::{Caller, Grant, Held, Operation, Target},
    service::Control,
};

/// How long a token of signing in lasts.
pub(super) const SESSION: SignedDuration = SignedDuration::from_hours(12);

/// What a secret begins with, so that scanners for leaked secrets know it.
const PREFIX: &str = "srt_";

/// Days for which a token is made if nothing is said.
const DAYS: u16 = 90;

/// What is done with tokens, in the audit log.
pub(super) const ACTION: &str = "access.token";

/// What a new token is.
#[derive(Clone, Copy, Debug)]
pub(super) struct Issue<'a> {
    /// What it is for.
    pub(super) name: &'a str,
    /// The most that it may do.
    pub(super) limit: Grant,
    /// When it ends, in trusted time.
    pub(super) expires: Timestamp,
    /// The token with which it ends.
    pub(super) parent: Option<TokenId>,
}

fn hash_secret(secret: &str) -> String {
    blake3::hash(secret.as_bytes()).to_hex().to_string()
}

fn no_token(id: TokenId) -> ControlError {
    ControlError::from(message!(TOKEN_NOT_FOUND, "there is no token {token}", token = id))
}

fn too_wide(message: Message) -> ControlError {
    ControlError::Forbidden { operation: ACTION, message: Box::new(message) }
}

/// The tokens of a user.
async fn tokens_of(tx: &mut ReadTx, user: UserId) -> Result<Vec<Token>> {
    let mut found = Vec::new();
    let mut after = None;
    loop {
        let own = Filter::all().eq("owner", user.to_string());
        let page = tx.list::<TokenDoc>(&Query::new(own).limit(1000).after(after)).await?;
        found.extend(page.items.into_iter().map(|stored| stored.doc.token));
        after = page.next;
        if after.is_none() {
            return Ok(found);
        }
    }
}

/// A token and all that were made with it, and with those.
fn with_children(tokens: &[Token], of: TokenId) -> BTreeSet<TokenId> {
    let mut found = BTreeSet::from([of]);
    loop {
        let before = found.len();
        let below =
            tokens.iter().filter(|token| token.parent.is_some_and(|it| found.contains(&it)));
        let below: Vec<_> = below.map(|token| token.id).collect();
        found.extend(below);
        if found.len() == before {
            return found;
        }
    }
}

/// Revokes a user's tokens except one, which then stands for itself; returns their number.
pub(super) async fn end_tokens(tx: &mut Tx, user: UserId, but: Option<TokenId>) -> Result<usize> {
    let mut ended = 0_usize;
    for token in tokens_of(tx, user).await? {
        let id = token.id.to_string();
        if but != Some(token.id) {
            tx.delete::<TokenDoc>(&id, None).await?;
            ended = ended.saturating_add(1);
        } else if token.parent.is_some()
            && let Some(mut kept) = tx.get::<TokenDoc>(&id).await?
        {
            kept.doc.token.parent = None;
            tx.update(&kept.doc, kept.version).await?;
        }
    }
    Ok(ended)
}

/// Where both of two scopes hold, if anywhere; `vault_of` is the vault of an item.
fn overlap(a: Scope, b: Scope, vault_of: impl Fn(ItemId) -> Option<VaultId>) -> bool {
    match (a, b) {
        (Scope::Server, _) | (_, Scope::Server) => true,
        (Scope::Vault(a), Scope::Vault(b)) => a == b,
        (Scope::Item(a), Scope::Item(b)) => a == b,
        (Scope::Host(a), Scope::Host(b)) => a == b,
        (Scope::Host(_), _) | (_, Scope::Host(_)) => false,
        (Scope::Vault(vault), Scope::Item(item)) | (Scope::Item(item), Scope::Vault(vault)) => {
            vault_of(item) == Some(vault)
        }
    }
}

/// Refuses what takes a token that is no narrower than its user.
pub(super) fn check_full(caller: &Caller) -> Result<()> {
    if caller.is_full() {
        return Ok(());
    }
    let message = message!(
        AUTH_FORBIDDEN: limited_token,
        "{user} may not do this with a token that is limited: it takes one of signing in",
        user = caller.name
    );
    Err(too_wide(message))
}

/// Says of tokens what they may do at present.
async fn add_effective_roles(tx: &mut ReadTx, tokens: &mut [Token]) -> Result<()> {
    let mut roles: BTreeMap<UserId, Vec<Assignment>> = BTreeMap::new();
    let mut vaults: BTreeMap<ItemId, Option<VaultId>> = BTreeMap::new();
    for token in tokens {
        let of = match roles.entry(token.user) {
            Entry::Occupied(of) => of.into_mut(),
            Entry::Vacant(of) => of.insert(assignments_of(tx, token.user).await?),
        };
        for scope in of.iter().map(|it| it.scope).chain([token.scope]) {
            if let Scope::Item(item) = scope
                && !vaults.contains_key(&item)
            {
                let found = tx.get::<ItemDoc>(&item.to_string()).await?;
                vaults.insert(item, found.map(|found| found.doc.item.vault));
            }
        }
        let vault_of = |item: ItemId| vaults.get(&item).copied().flatten();
        let here = of.iter().filter(|it| overlap(token.scope, it.scope, vault_of));
        token.effective_role = here.map(|it| it.role.min(token.role)).max();
    }
    Ok(())
}

impl Control {
    /// Makes a token.
    pub(super) async fn issue(
        &self,
        tx: &mut Tx,
        user: &User,
        issue: Issue<'_>,
    ) -> Result<TokenIssued> {
        let secret = blake3::Hash::from_bytes(self.entropy.array()).to_hex();
        let secret = format!("{PREFIX}{secret}");
        let mut token = Token {
            id: TokenId::generate(&*self.clock, &*self.entropy),
            name: issue.name.to_owned(),
            user: user.id,
            role: issue.limit.role,
            effective_role: None,
            scope: issue.limit.scope,
            created: self.now(),
            expires: issue.expires,
            parent: issue.parent,
            last_used: None,
        };
        tx.insert(&TokenDoc { token: token.clone(), hash: hash_secret(&secret) }).await?;
        add_effective_roles(tx, std::slice::from_mut(&mut token)).await?;
        Ok(TokenIssued { token, secret })
    }

    /// When a token ends that is made now for so long.
    pub(super) fn ends_after(&self, lasts: SignedDuration) -> Timestamp {
        self.trusted_now().checked_add(lasts).unwrap_or(Timestamp::MAX)
    }

    /// Who has a token.
    pub async fn caller(&self, secret: &str) -> Result<Caller> {
        Ok(self.recognise(secret).await?.caller.clone())
    }

    async fn recognise(&self, secret: &str) -> Result<Arc<Holder>> {
        let unknown = || ControlError::refused(&codes::AUTH_TOKEN, codes::AUTH_TOKEN.meaning);
        if !secret.starts_with(PREFIX) || secret.len() > 200 {
            return Err(unknown());
        }
        let hash = hash_secret(secret);
        let moment = Moment::now(&self.catalog, &*self.clock);
        let holder = if let Some(holder) = self.known.get(&hash, moment) {
            holder
        } else {
            let holder = Arc::new(self.holder(&hash).await?.ok_or_else(unknown)?);
            self.known.put(hash, moment, Arc::clone(&holder));
            holder
        };
        if holder.token.expires <= self.trusted_now() || holder.user.disabled {
            return Err(unknown());
        }
        self.used.note(&holder.token, self.now());
        Ok(holder)
    }

    async fn holder(&self, hash: &str) -> Result<Option<Holder>> {
        let found = in_read!(self, tx => {
            let by_hash = Query::new(Filter::all().eq("hash", hash));
            let Some(token) = tx.first::<TokenDoc>(&by_hash).await? else { return Ok(None) };
            let token = token.doc.token;
            let Some(user) = tx.get::<UserDoc>(&token.user.to_string()).await? else {
                return Ok(None);
            };
            let assignments = assignments_of(tx, token.user).await?;
            Ok(Some((token, user.doc.user, assignments)))
        })?;
        Ok(found.map(|(token, user, assignments)| {
            let grants = assignments.iter().map(|it| Grant { role: it.role, scope: it.scope });
            let caller = Caller {
                user: Some(user.id),
                name: user.name.clone(),
                grants: grants.collect(),
                limit: Grant { role: token.role, scope: token.scope },
                token: Some(Held { id: token.id, expires: token.expires }),
            };
            Holder { caller, token, user, assignments }
        }))
    }

    /// Who has a token, in the words of the API.
    pub async fn who_am_i(&self, secret: &str) -> Result<WhoAmI> {
        let holder = self.recognise(secret).await?;
        let Holder { token, user, assignments, .. } = &*holder;
        let mut token = token.clone();
        self.used.add_to(std::slice::from_mut(&mut token));
        in_read!(self, tx => {
            add_effective_roles(tx, std::slice::from_mut(&mut token)).await
        })?;
        Ok(WhoAmI { user: user.clone(), assignments: assignments.clone(), token })
    }

    /// The tokens that a caller sees: all of them if it manages access, its user's own, or, with a
    /// token that is narrower than its user, that one and what was made with it.
    pub async fn tokens(&self, caller: &Caller, at: &PageRequest) -> Result<api::Page<Token>> {
        let filter = if caller.may(Operation::ManageAccess, Target::Server) {
            Filter::all()
        } else {
            Filter::all().eq("owner", caller.user.map(|user| user.to_string()))
        };
        let query = at.of(Query::new(filter).ascending("expires"));
        let found = self.catalog.list::<TokenDoc>(&query).await?;
        let mut found = page(found, |stored| stored.doc.token);
        self.used.add_to(&mut found.items);
        in_read!(self, tx => {
            if let Some(seen) = seen(tx, caller).await? {
                found.items.retain(|token| seen.contains(&token.id));
            }
            add_effective_roles(tx, &mut found.items).await
        })?;
        Ok(found)
    }

    /// Makes a token of the caller's own, within the one that was sent.
    pub async fn create_token(&self, caller: &Caller, request: TokenCreate) -> Result<TokenIssued> {
        let days = request.days.unwrap_or(DAYS);
        if !(1..=366).contains(&days) || request.name.is_empty() || request.name.len() > 200 {
            let message = "a token has a name of 1 to 200 characters and lasts 1 to 366 days";
            return Err(ControlError::refused(&codes::REQUEST_INVALID, message));
        }
        let (Some(user), Some(held)) = (caller.user, caller.token) else {
            return Err(ControlError::refused(&codes::AUTH_REQUIRED, codes::AUTH_REQUIRED.meaning));
        };
        let role = request.role.unwrap_or(caller.limit.role);
        if role > caller.limit.role {
            let message = message!(
                AUTH_FORBIDDEN: token_role,
                "this token is limited to the role {role}",
                role = caller.limit.role
            );
            return Err(too_wide(message));
        }
        let scope = self.narrowed(caller, request.scope).await?;
        let by_password = match &request.password {
            Some(password) => {
                check_full(caller)?;
                self.prove(user, password).await?;
                true
            }
            None => false,
        };
        let mut expires = self.ends_after(SignedDuration::from_hours(24 * i64::from(days)));
        if !by_password && expires > held.expires {
            if request.days.is_some() {
                let message = message!(
                    TOKEN_OUTLIVES,
                    "this token ends {expires}, before a new one of {days} days",
                    expires = held.expires,
                    days
                );
                return Err(ControlError::from(message));
            }
            expires = held.expires;
        }
        let parent = (!by_password).then_some(held.id);
        in_write!(self, tx => {
            // It may have been revoked a moment ago.
            if tx.get::<TokenDoc>(&held.id.to_string()).await?.is_none() {
                return Err(ControlError::refused(&codes::AUTH_TOKEN, codes::AUTH_TOKEN.meaning));
            }
            let user = find_user(tx, &user.to_string()).await?.doc.user;
            let limit = Grant { role, scope };
            let issue = Issue { name: &request.name, limit, expires, parent };
            let issued = self.issue(tx, &user, issue).await?;
            let detail = json!({
                "token": issued.token.id, "role": role, "scope": scope,
                "expires": expires, "parent": parent,
            });
            audit::entry(tx, caller, ACTION, &user.name, "allowed", detail).await?;
            Ok(issued)
        })
    }

    /// Where a new token holds: within the scope of the one that is sent.
    async fn narrowed(&self, caller: &Caller, wanted: Option<Scope>) -> Result<Scope> {
        let own = caller.limit.scope;
        let wanted = wanted.unwrap_or(own);
        let within = match (own, wanted) {
            (Scope::Server, _) => true,
            (Scope::Vault(vault), Scope::Item(item)) => {
                let found = in_read!(self, tx => { find_item(tx, &item.to_string()).await });
                found.map_err(|_| no_item(item))?.doc.item.vault == vault
            }
            (own, wanted) => own == wanted,
        };
        if within {
            return Ok(wanted);
        }
        Err(too_wide(
            message!(AUTH_FORBIDDEN: token_scope, "this token is limited to a part of that"),
        ))
    }

    /// Revokes a token and what was made with it: one that the caller sees.
    pub async fn delete_token(&self, caller: &Caller, id: TokenId) -> Result<()> {
        let all = caller.may(Operation::ManageAccess, Target::Server);
        let hidden = in_read!(self, tx => {
            let found = tx.get::<TokenDoc>(&id.to_string()).await?.ok_or_else(|| no_token(id))?;
            let own = caller.user == Some(found.doc.token.user);
            let seen = seen(tx, caller).await?.is_none_or(|seen| seen.contains(&id));
            Ok(!seen || !(all || own))
        })?;
        if hidden {
            self.record_refusal(caller, ACTION, &id.to_string()).await?;
            return Err(no_token(id));
        }
        in_write!(self, tx => {
            let found = tx.get::<TokenDoc>(&id.to_string()).await?.ok_or_else(|| no_token(id))?;
            let of = tokens_of(tx, found.doc.token.user).await?;
            let ended = with_children(&of, id);
            for token in &ended {
                tx.delete::<TokenDoc>(&token.to_string(), None).await?;
            }
            let detail = json!({ "revoked": ended });
            audit::entry(tx, caller, ACTION, &id.to_string(), "allowed", detail).await
        })
    }
}

/// The tokens that a caller sees of its own; none: all of them.
async fn seen(tx: &mut ReadTx, caller: &Caller) -> Result<Option<BTreeSet<TokenId>>> {
    match (caller.user, caller.token) {
        (Some(user), Some(held)) if !caller.is_full() => {
            Ok(Some(with_children(&tokens_of(tx, user).await?, held.id)))
        }
        _ => Ok(None),
    }
}
