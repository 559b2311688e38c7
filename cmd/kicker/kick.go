package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"maps"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/client"
	"kicker/cmd/kicker/internal/print"
	"kicker/controller/api"
)

func kickCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kick node/N | role/R",
		Short: "Run the actions of a node, or of all nodes of a role, even if they are converged",
		Long: `Run the actions of a node, or of all nodes of a role, even if they are converged.

The controller kicks each action as soon as a run in progress there has ended, and repeats a kick that a node rejects.
With --wait the command waits until each action has had such a run. It prints which actions it waits for, and what they
wait for. It exits with 1 if a run failed or a node is gone, with 5 if the runs have not ended in time, and with 6 as
soon as all actions that are left wait only for a person.`,
		Example: "  kicker kick node/lb1.example.org --action reload --wait\n  kicker kick role/haproxy --dry-run",
		Args:    cobra.ExactArgs(1),
	}
	action := cmd.Flags().String("action", "", "only this `action` (default: all)")
	dryRun := cmd.Flags().Bool("dry-run", false, "only show what would be kicked")
	force := cmd.Flags().Bool("force", false, "reload even if no file changes: the runs get KICKER_FORCE=1")
	wait := cmd.Flags().Bool("wait", false, "wait for the outcome")
	timeout := cmd.Flags().Duration("timeout", 5*time.Minute, "how long to wait")
	cmd.MarkFlagsMutuallyExclusive("dry-run", "wait")
	cmd.RunE = func(cmd *cobra.Command, args []string) error {
		if _, _, err := object(args[0], "node", "role"); err != nil {
			return err
		}
		c, err := newClient(cmd)
		if err != nil {
			return err
		}
		var kicked api.Kicked
		order := api.KickOrder{Object: args[0], Action: *action, DryRun: *dryRun, Force: *force, By: caller()}
		raw, err := c.Post(cmd.Context(), "/v1/kicks", order, &kicked)
		if err != nil {
			return err
		}
		if *wait {
			ctx, cancel := context.WithTimeout(cmd.Context(), *timeout)
			defer cancel()
			return awaitRuns(ctx, cmd, c, kicked)
		}
		return show(cmd, raw, print.Kicked(kicked, *dryRun, c.Now))
	}
	return asks(cmd, "table", "json")
}

// awaitRuns waits until each action of an order has had a run that was kicked since, and prints how it went.
func awaitRuns(ctx context.Context, cmd *cobra.Command, c *client.Client, kicked api.Kicked) error {
	a := newAwaited(kicked)
	watching, stop := context.WithCancelCause(ctx)
	watched, now := make(chan struct{}), c.Now
	go func() {
		defer close(watched)
		if err := watchGates(watching, cmd, a, kicked.Actions, now); err != nil {
			stop(err)
		}
	}()
	err := c.Follow(watching, kicked.After, func(e api.Event) (done bool, err error) {
		ours, left := a.take(e)
		if ours && output(cmd) != "json" {
			_, err = io.WriteString(cmd.OutOrStdout(), print.Event(e))
		}
		return left == 0, err
	})
	stop(nil) // unless it has stopped because of an error
	<-watched
	if err == nil && output(cmd) == "json" {
		err = showRuns(context.WithoutCancel(ctx), cmd, c, a.ended)
	}
	person, isPerson := errors.AsType[exitError](context.Cause(watching))
	switch {
	case err != nil:
		return err
	case len(a.runs) > 0 && isPerson:
		return person
	case a.failed > 0:
		return exitError{exitFailed, fmt.Errorf("%d of %s failed", a.failed, api.Count(len(kicked.Actions), "action"))}
	case len(a.runs) > 0 && errors.Is(ctx.Err(), context.DeadlineExceeded):
		const remedy = "The order stands: kicker explain node/N says what it waits for"
		return exitError{exitTimeout, fmt.Errorf("timed out waiting for %s. %s", a, remedy)}
	case len(a.runs) > 0:
		return errors.New("interrupted. The order stands: the controller kicks the actions all the same")
	}
	return nil
}

// watchGates prints what the actions of an order wait for, until ctx ends. It returns an error as soon as all that are
// left wait only for a person. verdicts is those of the order, at now by the controller's clock.
func watchGates(
	ctx context.Context, cmd *cobra.Command, a *awaited, verdicts []api.Verdict, now time.Time,
) error {
	c, err := newClient(cmd)
	if err != nil {
		return nil // the order went through another one: there is only less to read
	}
	notes := newNotes(cmd.ErrOrStderr())
	for {
		waiting, persons := a.blocked(verdicts)
		if len(waiting) > 0 && persons {
			return personError("kick", waiting, "")
		}
		notes.say("", waiting, 0, now)
		select {
		case <-ctx.Done():
			return nil
		case <-time.After(gatesEvery):
		}
		var status api.Status
		if _, err := c.Get(ctx, "/v1/status", nil, &status); err == nil {
			verdicts, now = status.Stale, status.At
		}
	}
}

const gatesEvery = time.Second // between two looks at what actions wait for

// showRuns prints runs as JSON.
func showRuns(ctx context.Context, cmd *cobra.Command, c *client.Client, ids []string) error {
	var runs []api.Run
	if _, err := c.Get(ctx, "/v1/runs", nil, &runs); err != nil {
		return err
	}
	runs = slices.DeleteFunc(runs, func(r api.Run) bool { return !slices.Contains(ids, r.ID) })
	enc := json.NewEncoder(cmd.OutOrStdout())
	enc.SetIndent("", "  ")
	return enc.Encode(runs)
}

// awaited is the actions of an order whose runs have not ended.
type awaited struct {
	mu     sync.Mutex
	runs   map[string]string // by NODE/ACTION: the run that was kicked for the order, empty if none was
	why    map[string]string // by NODE/ACTION: why the last kick failed
	failed int               // actions without success
	ended  []string          // runs
}

func newAwaited(kicked api.Kicked) *awaited {
	a := &awaited{runs: map[string]string{}, why: map[string]string{}}
	for _, v := range kicked.Actions {
		a.runs[v.Node+"/"+v.Action] = ""
	}
	return a
}

// take reports whether an event is about an action of the order, and how many actions are left.
func (a *awaited) take(e api.Event) (ours bool, left int) {
	a.mu.Lock()
	defer a.mu.Unlock()
	ours = a.note(e)
	return ours, len(a.runs)
}

// blocked is the actions that are left, by these verdicts, and whether all of them wait only for a person.
func (a *awaited) blocked(verdicts []api.Verdict) (waiting []blocked, persons bool) {
	a.mu.Lock()
	defer a.mu.Unlock()
	all := 0
	for _, v := range verdicts {
		b := blocked{node: v.Node, action: v.Action, gates: v.Gates, running: v.Running != nil}
		run, left := a.runs[b.name()]
		if !left {
			continue
		}
		b.running = b.running || run != ""
		waiting = append(waiting, b)
		if run == "" && api.OnlyPerson(v.Gates) {
			all++
		}
	}
	return waiting, all == len(a.runs)
}

func (a *awaited) note(e api.Event) bool {
	name, before := e.Node+"/"+e.Action, len(a.runs)
	run, ours := a.runs[name]
	switch {
	case e.Kind == api.EventGone, e.Kind == api.EventLeft:
		maps.DeleteFunc(a.runs, func(name, _ string) bool { return strings.HasPrefix(name, e.Node+"/") })
		a.failed += before - len(a.runs)
		return len(a.runs) < before
	case !ours:
		return false
	case e.Kind == api.EventKicked:
		a.runs[name] = e.Run
		delete(a.why, name)
	case e.Kind == api.EventKickRejected, e.Kind == api.EventKickUnanswered: // the controller tries it again
		a.why[name] = e.Text
	case e.Kind == api.EventSucceeded, e.Kind == api.EventFailed:
		if run != e.Run {
			return false // it was in progress when the order was given
		}
		delete(a.runs, name)
		a.ended = append(a.ended, run)
		if e.Kind == api.EventFailed {
			a.failed++
		}
	}
	return ours
}

func (a *awaited) String() string {
	names := slices.Sorted(maps.Keys(a.runs))
	text := api.List(names, 3)
	for _, name := range names {
		if why := a.why[name]; why != "" {
			return text + ": " + why
		}
	}
	return text
}
