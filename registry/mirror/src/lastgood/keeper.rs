//! Who keeps the last-good file up: this process, or at present another one.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use domicile_model::Revision;
use tokio::sync::Notify;

use super::{LastGood, LastGoodError, Writer};

/// The writer, as long as the file is this process's.
pub(crate) struct Keeper(Mutex<State>);

enum State {
    /// There is no file.
    NoFile,
    /// This process keeps it.
    Here(Arc<Writer>, PathBuf),
    /// Another process does, or nobody.
    LetGo(PathBuf),
}

impl Keeper {
    /// Starts to keep the files up, if there are any.
    ///
    /// # Errors
    /// When there can be no thread for it.
    pub(crate) fn start(files: Option<&Arc<LastGood>>, relist: &Arc<Notify>) -> Result<Self, LastGoodError> {
        Ok(Self(Mutex::new(match files {
            Some(files) => State::Here(Arc::new(files.writer(relist.clone())?), files.path.clone()),
            None => State::NoFile,
        })))
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The writer, if this process has one.
    pub(crate) fn writer(&self) -> Option<Arc<Writer>> {
        match &*self.state() {
            State::Here(writer, _) => Some(writer.clone()),
            State::NoFile | State::LetGo(_) => None,
        }
    }

    /// Waits until the file has come to a revision. False: there is no file.
    pub(crate) async fn reached(&self, revision: Revision) -> bool {
        let durable = match &*self.state() {
            State::NoFile => return false,
            State::Here(writer, _) => Some(writer.durable()),
            State::LetGo(_) => None,
        };
        if let Some(mut durable) = durable
            && durable.wait_for(|durable| durable.revision >= revision).await.is_ok()
        {
            return true;
        }
        // This process keeps nothing any more.
        std::future::pending().await
    }

    /// Returns when all that was handed in is written and the file is free.
    pub(crate) async fn let_go(&self) {
        let writer = {
            let mut state = self.state();
            let State::Here(writer, path) = &*state else { return };
            let (writer, path) = (writer.clone(), path.clone());
            *state = State::LetGo(path);
            writer
        };
        let mut durable = writer.durable();
        // Its thread ends when nobody can hand anything in, and frees the file before this.
        drop(writer);
        while durable.changed().await.is_ok() {}
    }

    /// Takes the file again that was let go of.
    pub(crate) fn take_back(&self, relist: &Arc<Notify>) -> Result<(), LastGoodError> {
        let mut state = self.state();
        if let State::LetGo(path) = &*state {
            let path = path.clone();
            let writer = Arc::new(LastGood::claim(path.clone())?).writer(relist.clone())?;
            *state = State::Here(Arc::new(writer), path);
            // Only a listing brings the file up to the table.
            relist.notify_one();
        }
        Ok(())
    }
}
