package api

import (
	"errors"
	"time"
)

// KickOrder is a person's order to run actions now, even if they are converged. It skips settle and backoff, and no
// other gate. If a node rejects the kick, the controller tries again with backoff.
type KickOrder struct {
	Object string `json:"object"`           // node/N, or role/R for every node that has the role
	Action string `json:"action,omitempty"` // empty: all actions
	DryRun bool   `json:"dry_run,omitempty"`
	By     string `json:"by,omitempty"` // who gives the order, for the events
}

// LossOrder accepts the loss that the guard of a role holds. With Expect it announces a loss instead: for the time For
// the guard lets up to so many percent of the members go.
type LossOrder struct {
	Object string        `json:"object"`                   // role/R
	Expect int           `json:"expect_percent,omitempty"` // from 1 to 100
	For    time.Duration `json:"for_ns,omitempty"`
	By     string        `json:"by,omitempty"` // who gives the order, for the events
}

// Kicked answers a KickOrder.
type Kicked struct {
	Actions []Verdict `json:"actions"` // on each action of the order
	After   int64     `json:"after"`   // the newest event before the order; later ones say how the runs end
}

// Why a controller cannot carry out an order.
var (
	ErrNotFound  = errors.New("not found") // no such node, role or action
	ErrNotSynced = errors.New("not synced")
)
