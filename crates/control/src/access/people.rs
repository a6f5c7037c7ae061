//! Users, their passwords and rights.
//!
//! A user without a password cannot sign in: the first one, who begins with a token.

use jiff::SignedDuration;
use serde_json::json;
use strongroom_api::{
    self as api, Assignment, AssignmentCreate, Role, Scope, TokenIssued, User, UserCreate,
    UserUpdate,
};
use strongroom_base::{AssignmentId, UserId, codes, message};
use strongroom_catalog::{Filter, Query, ReadTx, Stored, Tx};

use super::tokens::{Issue, SESSION, check_full, end_tokens};
use crate::{
    audit,
    error::{ControlError, Result},
    lookup::{assignments_of, check_user_name, find_user},
    model::{AssignmentDoc, UserDoc},
    page::{PageRequest, page},
    rights::{Caller, Grant, Operation, Target, forbidden},
    service::Control,
};

/// The name of the first user.
const FIRST: &str = "admin";

fn check_password(password: &str) -> Result<()> {
    if (12..=1024).contains(&password.chars().count()) {
        return Ok(());
    }
    let message = "a password has 12 to 1024 characters";
    Err(ControlError::refused(&codes::USER_PASSWORD, message))
}

/// How many may give rights, and how many of them can sign in: who has a password.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Admins {
    all: usize,
    with_password: usize,
}

async fn admins(tx: &mut ReadTx) -> Result<Admins> {
    let mut found = Admins { all: 0, with_password: 0 };
    let admins = Filter::all().eq("role", Role::VaultAdmin.name()).eq("scope", "server");
    for stored in tx.list::<AssignmentDoc>(&Query::new(admins).limit(1000)).await?.items {
        let user = tx.get::<UserDoc>(&stored.doc.assignment.user.to_string()).await?;
        if let Some(user) = user.filter(|user| !user.doc.user.disabled) {
            found.all = found.all.saturating_add(1);
            if !user.doc.password.is_empty() {
                found.with_password = found.with_password.saturating_add(1);
            }
        }
    }
    Ok(found)
}

/// Refuses what has left nobody who may give rights and can sign in.
async fn check_admin_left(tx: &mut ReadTx, before: Admins) -> Result<()> {
    let left = admins(tx).await?;
    if (left.all == 0 && before.all > 0) || (left.with_password == 0 && before.with_password > 0) {
        let message = "this would leave no administrator with a password";
        return Err(ControlError::refused(&codes::USER_LAST_ADMIN, message));
    }
    Ok(())
}

/// Refuses to let somebody lock themselves out.
fn check_other(caller: &Caller, user: UserId) -> Result<()> {
    if caller.user != Some(user) {
        return Ok(());
    }
    Err(ControlError::refused(&codes::USER_SELF, codes::USER_SELF.meaning))
}

impl Control {
    /// Makes the first user, `admin`, if there is none, and a token with which to begin: its secret.
    pub async fn first_token(&self) -> Result<Option<String>> {
        self.trust_time().await?;
        in_write!(self, tx => {
            if tx.count::<UserDoc>(&Filter::all()).await? > 0 {
                return Ok(None);
            }
            let user = self.first_user(tx).await?;
            let limit = Grant { role: Role::VaultAdmin, scope: Scope::Server };
            let expires = self.ends_after(SESSION);
            let issue = Issue { name: "first start", limit, expires, parent: None };
            let issued = self.issue(tx, &user, issue).await?;
            let system = Caller::system();
            audit::entry(tx, &system, "access.begin", FIRST, "allowed", json!({})).await?;
            Ok(Some(issued.secret))
        })
    }

    /// Makes the user `admin`, who has no password.
    async fn first_user(&self, tx: &mut Tx) -> Result<User> {
        let user = User {
            id: UserId::generate(&*self.clock, &*self.entropy),
            name: FIRST.to_owned(),
            disabled: false,
            created: self.now(),
            last_sign_in: None,
        };
        tx.insert(&UserDoc { user: user.clone(), password: String::new() }).await?;
        self.make_admin(tx, user.id).await?;
        Ok(user)
    }

    async fn make_admin(&self, tx: &mut Tx, user: UserId) -> Result<()> {
        let assignment = Assignment {
            id: AssignmentId::generate(&*self.clock, &*self.entropy),
            user,
            role: Role::VaultAdmin,
            scope: Scope::Server,
            created: self.now(),
        };
        match tx.insert(&AssignmentDoc { assignment }).await {
            // Who is one already stays one.
            Ok(_) | Err(strongroom_catalog::Error::Taken { .. }) => Ok(()),
            Err(error) => Err(error.into()),
        }
    }

    /// A token for a vault admin of the server, for the owner of the server's data: of the user that is
    /// named, who must be one, or of `admin`, who is made and enabled if need be.
    pub async fn owner_token(
        &self,
        user: Option<&str>,
        lasts: SignedDuration,
        by: &str,
    ) -> Result<(User, TokenIssued)> {
        self.trust_time().await?;
        in_write!(self, tx => {
            let user = if let Some(name) = user {
                    let user = find_user(tx, name).await?.doc.user;
                    let of = assignments_of(tx, user.id).await?;
                    let admin = of.iter().any(|it| {
                        it.role == Role::VaultAdmin && it.scope == Scope::Server
                    });
                    if user.disabled || !admin {
                        let message = message!(AUTH_FORBIDDEN: no_admin, "{user} is disabled, or no vault admin of the server", user = user.name);
                        return Err(ControlError::from(message));
                    }
                    user
                } else {
                    let by_name = Query::new(Filter::all().eq("name", FIRST));
                    match tx.first::<UserDoc>(&by_name).await? {
                        Some(Stored { mut doc, version }) => {
                            if doc.user.disabled {
                                doc.user.disabled = false;
                                tx.update(&doc, version).await?;
                            }
                            self.make_admin(tx, doc.user.id).await?;
                            doc.user
                        }
                        None => self.first_user(tx).await?,
                    }
            };
            let limit = Grant { role: Role::VaultAdmin, scope: Scope::Server };
            let expires = self.ends_after(lasts);
            let issue = Issue { name: "server new-token", limit, expires, parent: None };
            let issued = self.issue(tx, &user, issue).await?;
            let detail = json!({ "token": issued.token.id, "expires": expires, "by": by });
            let system = Caller::system();
            audit::entry(tx, &system, "access.new_token", &user.name, "allowed", detail).await?;
            Ok((user, issued))
        })
    }

    /// Whether anybody has a password, so that nobody needs the first token any more.
    pub async fn has_passwords(&self) -> Result<bool> {
        let users = Query::default().limit(1000);
        let found = self.catalog.list::<UserDoc>(&users).await?;
        Ok(found.items.iter().any(|stored| !stored.doc.password.is_empty()))
    }

    fn check_access(&self, caller: &Caller) -> Result<()> {
        let operation = Operation::ManageAccess;
        self.check(caller, operation, Target::Server, || forbidden(caller, operation))
    }

    /// All users, by name.
    pub async fn users(&self, caller: &Caller, at: &PageRequest) -> Result<api::Page<User>> {
        self.check_access(caller)?;
        let query = at.of(Query::default().ascending("name"));
        Ok(page(self.catalog.list::<UserDoc>(&query).await?, |stored| stored.doc.user))
    }

    /// Makes a user, who has no rights yet.
    pub async fn create_user(&self, caller: &Caller, request: UserCreate) -> Result<User> {
        self.check_access(caller)?;
        check_user_name(&request.name)?;
        check_password(&request.password)?;
        let password = self.hash_password(request.password).await?;
        let doc = UserDoc {
            user: User {
                id: UserId::generate(&*self.clock, &*self.entropy),
                name: request.name,
                disabled: false,
                created: self.now(),
                last_sign_in: None,
            },
            password,
        };
        in_write!(self, tx => {
            tx.insert(&doc).await.map_err(|error| match error {
                strongroom_catalog::Error::Taken { .. } => {
                    ControlError::refused(&codes::USER_EXISTS, "there is a user of this name")
                }
                error => error.into(),
            })?;
            let (operation, detail) = (Operation::ManageAccess, json!({ "user": "created" }));
            audit::record(tx, caller, operation, &doc.user.name, detail).await
        })?;
        Ok(doc.user)
    }

    /// Changes a user: anybody may change the own password, with the present one and a token that is not
    /// limited. Another password ends all other tokens of the user.
    pub async fn update_user(
        &self,
        caller: &Caller,
        name: &str,
        change: UserUpdate,
    ) -> Result<User> {
        let found = in_read!(self, tx => { find_user(tx, name).await });
        let own = found.as_ref().is_ok_and(|found| caller.user == Some(found.doc.user.id));
        if !own || change.disabled.is_some() {
            self.check_access(caller)?;
        }
        let manages = caller.may(Operation::ManageAccess, Target::Server);
        let found = found?.doc;
        let id = found.user.id;
        if change.disabled == Some(true) {
            check_other(caller, id)?;
        }
        let mut proved = None;
        if change.password.is_some() && !manages {
            check_full(caller)?;
        }
        if let Some(password) = &change.password {
            check_password(password)?;
        }
        if change.current_password.is_some() || (change.password.is_some() && !manages) {
            let current = change.current_password.as_deref().unwrap_or_default();
            proved = Some(self.prove(id, current).await?);
        }
        let password = match change.password {
            Some(password) => Some(self.hash_password(password).await?),
            None => None,
        };
        in_write!(self, tx => {
            let Stored { mut doc, version } = find_user(tx, &id.to_string()).await?;
            if proved.as_ref().is_some_and(|proved| *proved != doc.password) {
                let code = &codes::REQUEST_CHANGED;
                return Err(ControlError::refused(code, code.meaning));
            }
            let before = admins(tx).await?;
            let disables = change.disabled == Some(true);
            doc.user.disabled = change.disabled.unwrap_or(doc.user.disabled);
            if let Some(password) = &password {
                doc.password.clone_from(password);
            }
            let ended = if password.is_some() || disables {
                let own = caller.token.filter(|_| own).map(|held| held.id);
                end_tokens(tx, id, own).await?
            } else {
                0
            };
            tx.update(&doc, version).await?;
            check_admin_left(tx, before).await?;
            let detail = json!({
                "disabled": change.disabled, "password": password.is_some(), "tokens_ended": ended,
            });
            let operation = Operation::ManageAccess;
            audit::record(tx, caller, operation, &doc.user.name, detail).await?;
            Ok(doc.user)
        })
    }

    /// Deletes a user with its rights and tokens.
    pub async fn delete_user(&self, caller: &Caller, name: &str) -> Result<()> {
        self.check_access(caller)?;
        in_write!(self, tx => {
            let before = admins(tx).await?;
            let user = find_user(tx, name).await?.doc.user;
            check_other(caller, user.id)?;
            end_tokens(tx, user.id, None).await?;
            let own = Filter::all().eq("owner", user.id.to_string());
            tx.delete_all::<AssignmentDoc>(&own).await?;
            tx.delete::<UserDoc>(&user.id.to_string(), None).await?;
            check_admin_left(tx, before).await?;
            let (operation, detail) = (Operation::ManageAccess, json!({ "user": "deleted" }));
            audit::record(tx, caller, operation, &user.name, detail).await
        })
    }

    /// All rights that were given.
    pub async fn assignments(
        &self,
        caller: &Caller,
        at: &PageRequest,
    ) -> Result<api::Page<Assignment>> {
        self.check_access(caller)?;
        let query = at.of(Query::default());
        let found = self.catalog.list::<AssignmentDoc>(&query).await?;
        Ok(page(found, |stored| stored.doc.assignment))
    }

    /// Gives a right.
    pub async fn assign(&self, caller: &Caller, request: AssignmentCreate) -> Result<Assignment> {
        self.check_access(caller)?;
        let id = AssignmentId::generate(&*self.clock, &*self.entropy);
        let now = self.now();
        in_write!(self, tx => {
            let user = find_user(tx, &request.user).await?.doc.user;
            let assignment = Assignment {
                id,
                user: user.id,
                role: request.role,
                scope: request.scope,
                created: now,
            };
            match tx.insert(&AssignmentDoc { assignment: assignment.clone() }).await {
                Ok(_) => {}
                // It has it already.
                Err(strongroom_catalog::Error::Taken { id, .. }) => {
                    return Ok(crate::lookup::named::<AssignmentDoc>(tx, id).await?.doc.assignment);
                }
                Err(error) => return Err(error.into()),
            }
            let detail = json!({ "role": request.role, "scope": request.scope });
            let operation = Operation::ManageAccess;
            audit::record(tx, caller, operation, &user.name, detail).await?;
            Ok(assignment)
        })
    }

    /// Takes a right away.
    pub async fn unassign(&self, caller: &Caller, id: AssignmentId) -> Result<()> {
        self.check_access(caller)?;
        in_write!(self, tx => {
            let before = admins(tx).await?;
            if !tx.delete::<AssignmentDoc>(&id.to_string(), None).await? {
                let message = message!(ASSIGNMENT_NOT_FOUND, "there is no role assignment {assignment}", assignment = id);
                return Err(ControlError::from(message));
            }
            check_admin_left(tx, before).await?;
            let (operation, detail) = (Operation::ManageAccess, json!({ "right": "taken" }));
            audit::record(tx, caller, operation, &id.to_string(), detail).await
        })
    }
}
