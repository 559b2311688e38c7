package controller

import (
	"cmp"
	"context"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"time"

	"kicker/controller/api"
	"kicker/controller/membership"
)

// Reload puts another configuration in force, as a whole or not at all. What was received, remembered, held and is in
// progress stays. A membership that it leaves as it is keeps its revision. Any goroutine may call it while Run runs.
func (c *Controller) Reload(ctx context.Context, cfg Config) (err error) {
	gone := c.inLoop(ctx, func(_ context.Context, now time.Time) (changed bool) {
		err = c.reload(cfg, now)
		return true
	})
	return cmp.Or(gone, err)
}

// RejectReload notes that there is another configuration, which is invalid, so that this one stays. Any goroutine may
// call it while Run runs.
func (c *Controller) RejectReload(ctx context.Context, why error) error {
	return c.inLoop(ctx, func(_ context.Context, now time.Time) (changed bool) {
		c.rejectReload(why, now)
		return true
	})
}

func (c *Controller) reload(cfg Config, now time.Time) error {
	next, err := c.with(cfg, now)
	if err != nil {
		c.rejectReload(err, now)
		return err
	}
	rejected := c.journal.loaded.Failed != ""
	c.journal.loaded = api.Loaded{At: now}
	if keys := changedKeys(c.cfg, cfg); len(keys) > 0 {
		c.event(event(now, api.EventReloaded, "the configuration was reloaded: %s changed", strings.Join(keys, ", ")))
		c.cfg, c.table, c.fleet, c.leadership.takeOver = cfg, next.table, next.fleet, cfg.GoneAfter
	} else if rejected {
		c.event(event(now, api.EventReloaded, "the configuration is valid again, and as it was"))
	}
	return nil
}

func (c *Controller) rejectReload(why error, now time.Time) {
	c.journal.loaded.Failed = strings.ReplaceAll(why.Error(), "\n", "; ")
	c.event(event(now, api.EventReloadRejected,
		"the new configuration is rejected, the old one stays: %s", c.journal.loaded.Failed))
}

// with is this controller as it would be with another configuration. The two share nothing that changes, and the copy
// sends nothing.
func (c *Controller) with(cfg Config, now time.Time) (*Controller, error) {
	if cfg.Cluster != c.cfg.Cluster || cfg.Standby != c.cfg.Standby {
		return nil, fmt.Errorf("configuration: cluster and standby cannot change while the controller runs: restart it")
	}
	next := &Controller{
		cfg: cfg, inv: c.inv, log: slog.New(slog.DiscardHandler), journal: newJournal(),
		leadership: c.leadership, listening: c.listening, departed: newDeparted(), fleet: c.fleet.clone(cfg.Backoff, now),
	}
	nodes := c.inv.Snapshot()
	table, err := c.table.With(cfg.membership(), nodes, now, func(table *membership.Table) {
		for _, a := range next.fleet.all() {
			var unresolved error
			a.Needs, unresolved = needsOf(table, nodes.Node(a.Node), a.Status, nodes, now)
			a.Unresolved = text(unresolved)
		}
		for node := range next.fleet.actions {
			next.reportApplied(table, node, now)
		}
	})
	if err != nil {
		return nil, fmt.Errorf("configuration: %w", err)
	}
	next.table = table
	return next, nil
}

// text is an error's text, empty for none.
func text(err error) string {
	if err == nil {
		return ""
	}
	return err.Error()
}

// changedKeys is the keys in which two configurations differ; of roles it names each.
func changedKeys(was, is Config) []string {
	var keys []string
	a, b := reflect.ValueOf(was), reflect.ValueOf(is)
	for _, field := range reflect.VisibleFields(a.Type()) {
		key := field.Tag.Get("mapstructure")
		if field.Anonymous || key == "" || key == "roles" || len(field.Index) > 1 && strings.HasPrefix(key, ",") {
			continue
		}
		if !reflect.DeepEqual(a.FieldByIndex(field.Index).Interface(), b.FieldByIndex(field.Index).Interface()) {
			keys = append(keys, key)
		}
	}
	roles := map[string][2]membership.RoleConfig{}
	for i, cfg := range [][]membership.RoleConfig{was.Roles, is.Roles} {
		for _, r := range cfg {
			both := roles[r.Name]
			both[i] = r
			roles[r.Name] = both
		}
	}
	for _, name := range sortedKeys(roles) {
		if both := roles[name]; !reflect.DeepEqual(both[0], both[1]) {
			keys = append(keys, "role "+name)
		}
	}
	return keys
}
