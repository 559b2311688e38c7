package controller

import (
	"time"

	"kicker/controller/api"
	"kicker/inventory"
)

// conflict is a name that two machines claim, for as long as both report.
type conflict struct {
	api.Conflict
	last time.Time // when the rejected one reported last
}

// nameConflict notes that a heartbeat was rejected because another machine has its node's name. It is recorded once,
// and shown for as long as it lasts.
func (c *Controller) nameConflict(with *inventory.Conflict, now time.Time) (changed bool) {
	c.journal.counts.InvalidMessages++
	is := conflict{api.Conflict{Node: with.Node, Accepted: with.Accepted, Rejected: with.Rejected, Since: now}, now}
	was, lasts := c.rejected.conflicts[with.Node]
	if lasts {
		is.Since = was.Since
	} else {
		c.nodeEvent(now, api.EventConflictBegan, is.Node, "%s", is)
	}
	c.rejected.conflicts[with.Node] = is
	return is.Accepted != was.Accepted || is.Rejected != was.Rejected
}

// rejected is the nodes whose heartbeats are rejected now, by name.
type rejected struct {
	conflicts map[string]conflict
	versions  map[string]version
}

// version is a node whose messages have another version, for as long as it sends them.
type version struct {
	api.VersionMismatch
	last time.Time
}

// maxVersions bounds how many such nodes are remembered.
const maxVersions = 1000

// wrongVersion notes that a message has another version. It is recorded once, and shown for as long as such messages
// come.
func (c *Controller) wrongVersion(e *inventory.VersionError, now time.Time) (changed bool) {
	c.journal.counts.InvalidMessages++
	is, lasts := c.rejected.versions[e.Node]
	if !lasts && len(c.rejected.versions) >= maxVersions {
		return false
	}
	if !lasts {
		is.VersionMismatch = api.VersionMismatch{Node: e.Node, Since: now}
	}
	if !lasts && now.Sub(c.journal.warned) >= invalidEvery { // the problems name all of them
		c.journal.warned = now
		c.nodeEvent(now, api.EventWrongVersion, e.Node, "node %s: %s", e.Node, e)
	}
	changed = is.Version != e.Version
	is.Version, is.last = e.Version, now
	c.rejected.versions[e.Node] = is
	return changed
}

// endReports ends the conflicts and the wrong versions that no message shows any more, as far as messages are received.
func (c *Controller) endReports(now time.Time) (changed bool) {
	if !c.listening.sync.Open {
		return false
	}
	silence := max(c.cfg.GoneAfter, 4*c.listening.pace)
	for node, k := range c.rejected.conflicts {
		if now.Sub(k.last) >= silence {
			c.conflictEnded(node, "instance "+k.Rejected+" no longer reports", now)
			changed = true
		}
	}
	for node, v := range c.rejected.versions {
		if now.Sub(v.last) >= silence {
			delete(c.rejected.versions, node)
			changed = true
		}
	}
	return changed
}

func (c *Controller) conflictEnded(node, why string, now time.Time) {
	if _, lasts := c.rejected.conflicts[node]; lasts {
		delete(c.rejected.conflicts, node)
		c.nodeEvent(now, api.EventConflictEnded, node, "node %s: one machine claims this name: %s", node, why)
	}
}
