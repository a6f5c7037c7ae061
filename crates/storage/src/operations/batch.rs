//! Blob Batch: each part is a request with a right of its own, and is carried out as if it had come alone.

use axum::body::Body;
use azure::{Answer, Batch, BatchPart, Code, Operation, Refusal};
use strongroom_azure as azure;

use crate::{
    bodies::Incoming,
    face::{Work, authorize},
    map::{self, Subject},
};

impl Work<'_> {
    pub(super) async fn batch(
        &self,
        body: &azure::Body,
        incoming: &mut Incoming,
    ) -> Result<Answer, Refusal> {
        let memory = self.storage.body_memory(body.wire_length).await;
        let _memory = memory.map_err(|failure| map::failure(&failure, Subject::Container))?;
        let (content, _) = incoming.read(body).await?;
        let batch = Batch::parse(self.request, &content, &self.storage.suffixes)?;
        let mut answers = Vec::with_capacity(batch.parts.len());
        for part in &batch.parts {
            let (id, now) = (self.storage.new_id(), self.now());
            answers.push(match self.part(part).await {
                Ok(answer) => answer.repeat(&part.repeated, &id, now),
                Err(refusal) => Answer::refused(&refusal, &part.repeated, &id, now),
            });
        }
        Ok(batch.answer(&self.storage.new_id(), &answers))
    }

    async fn part(&self, part: &BatchPart) -> Result<Answer, Refusal> {
        let request = part.request.as_ref().map_err(Clone::clone)?;
        let (grant, account) = authorize(self.storage, request, &self.caller).await?;
        let work = Work {
            storage: self.storage,
            request,
            grant,
            account,
            caller: self.caller,
            authority: self.authority.clone(),
        };
        let Operation::Blob(path, operation) = &request.operation else {
            return Err(Code::InvalidInput.into());
        };
        let mut nothing = Incoming::new(Body::empty(), false);
        Ok(work.blob(path, operation, &mut nothing).await?.answer)
    }
}
