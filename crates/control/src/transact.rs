//! Transactions of the catalog, in one piece: begun, asked, and committed if all went well.
//!
//! These macros own the fence and the note of a carried-out request, which every change needs. They must not know what
//! is changed.

/// Runs a block in a transaction that writes; its changes last if it ends with `Ok`.
macro_rules! in_write {
    ($control:expr, $tx:ident => $work:block) => {
        async {
            let begun = $control.clock.monotonic();
            let mut transaction = $control.catalog.write().await?;
            $control.check_fence(&mut transaction).await?;
            let $tx = &mut transaction;
            let done: Result<_, crate::ControlError> = async { $work }.await;
            let done = done?;
            crate::once::note(&mut transaction).await?;
            transaction.commit().await?;
            $control.pulse.wrote($control.clock.monotonic().saturating_sub(begun));
            Ok::<_, crate::ControlError>(done)
        }
        .await
    };
}

/// Runs a block in a transaction that reads: all that it reads is of one moment.
macro_rules! in_read {
    ($control:expr, $tx:ident => $work:block) => {
        async {
            let mut transaction = $control.catalog.read().await?;
            let $tx = &mut transaction;
            let done: Result<_, crate::ControlError> = async { $work }.await;
            done
        }
        .await
    };
}
