//! What the command line asks of groups.

use super::{Client, ClientError};
use muster_proto::name::LabelText;
use muster_proto::selection::{Group, GroupSource};
use muster_proto::wire;

impl Client {
    /// Sets a group, in the place of one of its name; how many hosts it means now.
    pub async fn set_group(&self, name: &LabelText, expression: &str) -> Result<u32, ClientError> {
        let request = wire::SetGroupRequest { name: name.to_string(), expression: expression.to_owned() };
        Ok(self.reply(self.service.clone().set_group(request).await)?.hosts)
    }

    /// Removes a group that no other names.
    pub async fn remove_group(&self, name: &LabelText) -> Result<(), ClientError> {
        let request = wire::RemoveGroupRequest { name: name.to_string() };
        self.reply(self.service.clone().remove_group(request).await)?;
        Ok(())
    }

    /// All groups, by name, and where else groups come from.
    pub async fn groups(&self) -> Result<(Vec<Group>, Vec<GroupSource>), ClientError> {
        let reply = self.reply(self.service.clone().list_groups(wire::ListGroupsRequest::default()).await)?;
        Ok((self.read_all(reply.groups)?, self.read_all(reply.sources)?))
    }

    /// One group of the controller's own.
    pub async fn group(&self, name: &LabelText) -> Result<Option<Group>, ClientError> {
        let request = wire::ListGroupsRequest { name: name.to_string() };
        let reply = self.reply(self.service.clone().list_groups(request).await)?;
        Ok(self.read_all(reply.groups)?.pop())
    }
}
