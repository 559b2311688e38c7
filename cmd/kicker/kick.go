package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"kicker/controller/api"
	"maps"
	"net/http"
	"net/url"
	"os"
	"os/user"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"
)

func kickCommand() *cobra.Command {
	cmd := &cobra.Command{
		Use:   "kick node/N | role/R",
		Short: "Run the actions of a node, or of all nodes of a role, applied or not",
		Long: `Run the actions of a node, or of all nodes of a role, applied or not.

It asks the controller, which kicks as soon as a run in progress there is over. With --wait it waits until each of the actions
has had such a run, and exits with 1 if one failed, with 5 if they are not over in time.`,
		Example: "  kicker kick node/lb1.example.org --action reload --wait\n  kicker kick role/haproxy --dry-run",
		Args:    cobra.ExactArgs(1),
	}
	action := cmd.Flags().String("action", "", "only this `action` (default: all)")
	dryRun := cmd.Flags().Bool("dry-run", false, "only say what would be kicked")
	wait := cmd.Flags().Bool("wait", false, "wait for the outcome")
	timeout := cmd.Flags().Duration("timeout", 5*time.Minute, "how long to wait")
	clientFlags(cmd)
	outputFlag(cmd, "table", "json")
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
		order := api.KickOrder{Object: args[0], Action: *action, DryRun: *dryRun, By: whoAsks()}
		raw, err := c.ask(cmd.Context(), http.MethodPost, "/v1/kicks", order, &kicked)
		if err != nil {
			return err
		}
		switch {
		case *wait:
			ctx, cancel := context.WithTimeout(cmd.Context(), *timeout)
			defer cancel()
			return awaitRuns(ctx, cmd, c, kicked)
		case output(cmd) == "json":
			_, err = cmd.OutOrStdout().Write(raw)
			return err
		}
		return printKicked(cmd.OutOrStdout(), kicked, *dryRun, c.now)
	}
	return cmd
}

// whoAsks is for the controller's events.
func whoAsks() string {
	name := fmt.Sprintf("uid %d", os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	if host, err := os.Hostname(); err == nil {
		name += "@" + host
	}
	return name
}

func printKicked(w io.Writer, kicked api.Kicked, dryRun bool, now time.Time) error {
	head := "KICKED"
	if dryRun {
		head = "WOULD BE KICKED"
	}
	rows := [][]string{{"NODE", "ACTION", "STATE", head}}
	for _, v := range kicked.Actions {
		when := "now"
		if len(v.Gates) > 0 || v.Running != nil {
			when = "after " + waitsText(v, now)
		}
		rows = append(rows, []string{"node/" + v.Node, v.Action, string(v.State), when})
	}
	return table(w, rows...)
}

// awaitRuns waits until each action that was asked for has had a run that was kicked since, and prints what comes of it.
func awaitRuns(ctx context.Context, cmd *cobra.Command, c *client, kicked api.Kicked) error {
	asJSON := output(cmd) == "json"
	a := awaited{runs: map[string]string{}}
	for _, v := range kicked.Actions {
		a.runs[v.Node+"/"+v.Action] = ""
	}
	err := c.follow(ctx, kicked.After, func(_ []byte, e api.Event) (bool, error) {
		if ours := a.take(e); ours && !asJSON {
			if err := printEvent(cmd.OutOrStdout(), e); err != nil {
				return false, err
			}
		}
		return len(a.runs) == 0, nil
	})
	if err == nil && asJSON {
		err = c.printRunsJSON(context.WithoutCancel(ctx), cmd.OutOrStdout(), a.over)
	}
	switch {
	case err != nil:
		return err
	case a.failed > 0:
		return exitError{exitFailed, fmt.Errorf("%d of %s failed", a.failed, count(len(kicked.Actions), "action"))}
	case len(a.runs) > 0 && errors.Is(ctx.Err(), context.DeadlineExceeded):
		return exitError{exitTimeout, fmt.Errorf("not over in time: %s: `kicker explain node/N` says what it waits for", &a)}
	case len(a.runs) > 0:
		return errors.New("interrupted: what was asked for is done all the same")
	}
	return nil
}

func (c *client) printRunsJSON(ctx context.Context, w io.Writer, ids []string) error {
	var runs []api.Run
	if _, err := c.get(ctx, "/v1/runs", url.Values{}, &runs); err != nil {
		return err
	}
	runs = slices.DeleteFunc(runs, func(r api.Run) bool { return !slices.Contains(ids, r.ID) })
	enc := json.NewEncoder(w)
	enc.SetIndent("", "  ")
	return enc.Encode(runs)
}

// awaited is the actions whose runs are waited for.
type awaited struct {
	runs   map[string]string // by NODE/ACTION, the run that was kicked for it, as soon as there is one
	failed int               // actions that had no success
	over   []string          // runs that ended
}

// take reports whether an event concerns an action that is waited for.
func (a *awaited) take(e api.Event) bool {
	name := e.Node + "/" + e.Action
	run, ours := a.runs[name]
	switch e.Kind {
	case api.EventGone, api.EventLeft:
		for name := range a.runs {
			if strings.HasPrefix(name, e.Node+"/") {
				delete(a.runs, name)
				a.failed++
				ours = true
			}
		}
	case api.EventKicked:
		if ours {
			a.runs[name] = e.Run
		}
	case api.EventSucceeded, api.EventFailed:
		if !ours || run != e.Run {
			return false // a run that was in progress when it was asked for is not the one that was asked for
		}
		delete(a.runs, name)
		a.over = append(a.over, run)
		if e.Kind == api.EventFailed {
			a.failed++
		}
	}
	return ours
}

func (a *awaited) String() string { return firstFew(slices.Sorted(maps.Keys(a.runs))) }
