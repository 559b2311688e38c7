package demo

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"os"
	"os/exec"
	"slices"
	"strings"
	"time"

	"kicker/cmd/kicker/internal/print"
	"kicker/controller/api"
	"kicker/kick"
)

// step is a part of the story. It fails if its effect can not be seen from outside.
type step struct {
	title string
	play  func(context.Context) error
}

func (d *demo) story() []step {
	return []step{
		{"Everything starts", d.playStart},
		{"web4 joins and gets no requests before it is ready", d.playJoin},
		{"web2 is killed", d.playDeath},
		{"web3 leaves and waits until the load balancer does not use it", d.playLeave},
		{"A run fails twice, then succeeds", d.playFailures},
		{"A member joins and another leaves during one run", d.playChangeDuringRun},
		{"The agent is killed during a run", d.playAgentKilled},
		{"The controller is killed and no action runs", d.playControllerKilled},
	}
}

func (d *demo) playStart(ctx context.Context) error {
	began := time.Now()
	if err := errors.Join(d.startController(), d.startBalancer()); err != nil {
		return err
	}
	for _, name := range []string{"web1", "web2", "web3"} {
		if err := d.startWeb(name, 500*time.Millisecond); err != nil {
			return err
		}
	}
	if err := d.awaitServed(ctx, 20*time.Second, "web1", "web2", "web3"); err != nil {
		return err
	}
	took := time.Since(began)
	if err := d.awaitConverged(ctx); err != nil {
		return err
	}
	d.proved("all three get requests %s after the start; a new controller only listens for about 3.7 s", seconds(took))
	return nil
}

func (d *demo) playJoin(ctx context.Context) error {
	began := time.Now()
	if err := d.startWeb("web4", 1500*time.Millisecond); err != nil {
		return err
	}
	var address string
	if err := until(ctx, 10*time.Second, "web4 joins and is not ready", func() (bool, error) {
		node, err := d.node(ctx, "web4")
		if err != nil || node.Facts == nil {
			return false, err
		}
		address = fmt.Sprintf("http://%v:%v/", node.Facts["ipaddress"], node.Facts["port"])
		if node.Member {
			return false, impossiblef("web4 is a member %s after its start, before it is ready",
				seconds(time.Since(began)))
		}
		return true, nil
	}); err != nil {
		return err
	}
	if err := until(ctx, 10*time.Second, "web4 is ready", func() (bool, error) {
		served := slices.Contains(d.served.now(), "web4") // before fetch: it may become ready in between
		_, err := fetch(ctx, http.DefaultClient, address)
		if err != nil && served {
			return false, impossiblef("web4 gets requests and is not ready: %v", err)
		}
		return err == nil, err
	}); err != nil {
		return err
	}
	ready := time.Now()
	if err := d.awaitServed(ctx, 10*time.Second, "web1", "web2", "web3", "web4"); err != nil {
		return err
	}
	took := time.Since(ready)
	if err := d.awaitConverged(ctx); err != nil {
		return err
	}
	if err := d.noneFailed(began); err != nil {
		return err
	}
	d.proved("web4 gets requests %s after it was ready, none before%s", seconds(took), d.visits(began))
	return nil
}

func (d *demo) playDeath(ctx context.Context) error {
	killed := time.Now()
	if err := d.crew.kill("web2"); err != nil {
		return err
	}
	if err := d.awaitServed(ctx, 10*time.Second, "web1", "web3", "web4"); err != nil {
		return err
	}
	out := time.Now()
	if err := d.awaitConverged(ctx); err != nil {
		return err
	}
	if err := d.noneFailed(out); err != nil {
		return err
	}
	if _, err := d.node(ctx, "web2"); err == nil {
		return errors.New("web2 is still in the inventory")
	}
	d.proved("web2 is removed %s after SIGKILL; 1.5 s of it are for agents that only restart%s",
		seconds(out.Sub(killed)), d.visits(killed))
	return nil
}

func (d *demo) playLeave(ctx context.Context) error {
	began := time.Now()
	if err := d.kickerCommand(ctx, "leave", "--wait", "--name", "web3", "--timeout", "20s"); err != nil {
		return err
	}
	took := time.Since(began)
	served, err := d.readServed()
	if err != nil {
		return err
	}
	if _, still := served["web3"]; still {
		return errors.New("kicker leave --wait has returned, and web3 still gets requests")
	}
	stopped := time.Now()
	if err := d.crew.stop("web3"); err != nil {
		return err
	}
	if err := d.awaitServed(ctx, time.Second, "web1", "web4"); err != nil {
		return err
	}
	if err := d.noneFailed(stopped); err != nil {
		return err
	}
	if err := d.noneFailed(began); err != nil {
		return err
	}
	d.proved("kicker leave --wait returned after %s; then web3 was stopped%s", seconds(took), d.visits(began))
	return nil
}

func (d *demo) playFailures(ctx context.Context) error {
	before, err := d.runs(ctx)
	if err != nil {
		return err
	}
	right, wrong := d.typo()
	if err := d.edit("haproxy.cfg.tmpl", right, wrong); err != nil {
		return err
	}
	d.timeline.line(plain, "operator", "writes %q into haproxy.cfg.tmpl", wrong)
	began := time.Now()
	if err := d.startWeb("web5", 0); err != nil {
		return err
	}
	if err := until(ctx, 20*time.Second, "two runs fail", func() (bool, error) {
		runs, err := d.runs(ctx)
		if served := d.served.now(); slices.Contains(served, "web5") {
			return false, impossiblef("web5 gets requests, although its configuration is wrong")
		}
		return len(over(runs[min(len(before), len(runs)):])) >= 2, err
	}); err != nil {
		return err
	}
	if err := d.edit("haproxy.cfg.tmpl", wrong, right); err != nil {
		return err
	}
	d.timeline.line(plain, "operator", "corrects it")
	if err := d.awaitServed(ctx, 20*time.Second, "web1", "web4", "web5"); err != nil {
		return err
	}
	if err := d.awaitConverged(ctx); err != nil {
		return err
	}
	runs, err := d.runs(ctx)
	if err != nil {
		return err
	}
	runs = runs[len(before):]
	outcomes := make([]kick.Outcome, len(runs))
	for i, run := range runs {
		outcomes[i] = run.Outcome
	}
	if want := []kick.Outcome{kick.Failed, kick.Failed, kick.Succeeded}; !slices.Equal(outcomes, want) {
		return fmt.Errorf("the runs ended as %v, want %v", outcomes, want)
	}
	first, second := runs[1].Started.Sub(runs[0].Ended), runs[2].Started.Sub(runs[1].Ended)
	if first < 700*time.Millisecond || second < 1400*time.Millisecond {
		return fmt.Errorf("the retries came after %s and %s, want a longer backoff", seconds(first), seconds(second))
	}
	if err := d.noneFailed(began); err != nil {
		return err
	}
	d.proved("retried after %s and %s; HAProxy never had the wrong configuration%s", seconds(first), seconds(second),
		d.visits(began))
	return nil
}

func (d *demo) playChangeDuringRun(ctx context.Context) error {
	before, err := d.runs(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	if err := d.linger(2 * time.Second); err != nil {
		return err
	}
	if err := d.startWeb("web6", 0); err != nil {
		return err
	}
	run, err := d.awaitRunning(ctx, len(before))
	if err != nil {
		return err
	}
	if err := d.kickerCommand(ctx, "leave", "--name", "web5"); err != nil {
		return err
	}
	changed := time.Now()
	if err := d.linger(0); err != nil { // for this run and the next one
		return err
	}
	if err := d.awaitServed(ctx, 15*time.Second, "web1", "web4", "web6"); err != nil {
		return err
	}
	took := time.Since(changed)
	if err := d.awaitConverged(ctx); err != nil {
		return err
	}
	pause(ctx, 1500*time.Millisecond) // a third run would begin in this time
	runs, err := d.runs(ctx)
	if err != nil {
		return err
	}
	runs = runs[len(before):]
	if len(runs) != 2 || runs[0].ID != run || runs[0].Outcome != kick.Succeeded || runs[1].Outcome != kick.Succeeded {
		return fmt.Errorf("want two runs that succeed, the first of them %s: %s", run, runsInShort(runs))
	}
	if changed.After(runs[0].Ended) {
		return errors.New("the change came after the run, so this step shows nothing")
	}
	if err := d.reloaded(runs); err != nil {
		return err
	}
	if err := d.noneFailed(began); err != nil {
		return err
	}
	d.proved("exactly one more run; both changes have their effect %s after the second one%s", seconds(took),
		d.visits(began))
	return d.crew.stop("web5")
}

func (d *demo) playAgentKilled(ctx context.Context) error {
	before, err := d.runs(ctx)
	if err != nil {
		return err
	}
	began := time.Now()
	const linger = 2500 * time.Millisecond
	if err := d.linger(linger); err != nil {
		return err
	}
	if err := d.startWeb("web7", 0); err != nil {
		return err
	}
	run, err := d.awaitRunning(ctx, len(before))
	if err != nil {
		return err
	}
	if err := d.crew.kill("lb1"); err != nil {
		return err
	}
	killed := time.Now()
	if err := d.linger(0); err != nil {
		return err
	}
	if err := d.awaitServed(ctx, 15*time.Second, "web1", "web4", "web6", "web7"); err != nil {
		return err
	}
	var runs []api.Run
	if err := until(ctx, 10*time.Second, "the controller knows how run "+run+" ended", func() (bool, error) {
		all, err := d.runs(ctx)
		runs = all[min(len(before), len(all)):]
		return len(runs) > 0 && runs[0].Outcome != "" && runs[0].Outcome != kick.Lost, err
	}); err != nil {
		return err
	}
	known := time.Since(killed)
	if err := d.awaitConverged(ctx); err != nil {
		return err
	}
	got := runs[0]
	if len(runs) != 1 || got.ID != run || got.Outcome != kick.Succeeded || got.Exit != 0 || got.Duration < linger {
		return fmt.Errorf("want one run, %s, that succeeded after more than %s: %s", run, linger, runsInShort(runs))
	}
	if err := d.reloaded(runs); err != nil {
		return err
	}
	if err := d.noneFailed(began); err != nil {
		return err
	}
	d.proved("the run continued, and %s after SIGKILL its outcome is known: succeeded in %s%s", seconds(known),
		api.Duration(runs[0].Duration), d.visits(began))
	return nil
}

func (d *demo) playControllerKilled(ctx context.Context) error {
	reloads, err := d.reloads()
	if err != nil {
		return err
	}
	var before, after api.Status
	if err := d.ask(ctx, "/v1/status", nil, &before); err != nil {
		return err
	}
	served := d.served.now()
	killed := time.Now()
	if err := d.crew.kill("controller"); err != nil {
		return err
	}
	if err := until(ctx, 20*time.Second, "another controller is synced", func() (bool, error) {
		err := d.ask(ctx, "/v1/status", nil, &after)
		return err == nil && after.Identity.ID != before.Identity.ID && after.Sync.Open, err
	}); err != nil {
		return err
	}
	synced := time.Since(killed)
	if err := d.awaitConverged(ctx); err != nil {
		return err
	}
	pause(ctx, time.Second) // a kick would come in this time
	runs, err := d.runs(ctx)
	if err != nil {
		return err
	}
	now, err := d.reloads()
	if err != nil {
		return err
	}
	if len(runs) > 0 || len(now) != len(reloads) {
		return fmt.Errorf("%s since the controller was killed, want none: %s",
			api.Count(max(len(runs), len(now)-len(reloads)), "run"), runsInShort(runs))
	}
	if got := d.served.now(); !slices.Equal(got, served) {
		return fmt.Errorf("requests went to %s, and now go to %s", orNone(served), orNone(got))
	}
	if err := d.noneFailed(killed); err != nil {
		return err
	}
	d.proved("%s after SIGKILL the next controller knows all nodes, and it runs no action%s", seconds(synced),
		d.visits(killed))
	return nil
}

// awaitServed waits until exactly these servers get requests, and each of them answers.
func (d *demo) awaitServed(ctx context.Context, most time.Duration, names ...string) error {
	want := "requests go to exactly " + strings.Join(names, " ")
	if err := until(ctx, most, want, func() (bool, error) {
		now := d.served.now()
		return slices.Equal(now, names), fmt.Errorf("they go to %s", orNone(now))
	}); err != nil || d.haproxy == "" {
		return err
	}
	since := time.Now()
	return until(ctx, 5*time.Second, "each of them answers through HAProxy, and no other server", func() (bool, error) {
		answered, failed, why := d.visitor.since(since)
		for name := range answered {
			if !slices.Contains(names, name) {
				return false, impossiblef("%s answers through HAProxy", name)
			}
		}
		return len(answered) == len(names), fmt.Errorf("answered: %v; failed: %d %s", answered, failed, why)
	})
}

// awaitConverged waits until the controller knows that lb1 is converged.
func (d *demo) awaitConverged(ctx context.Context) error {
	return until(ctx, 10*time.Second, "lb1 is converged", func() (bool, error) {
		var st api.Status
		err := d.ask(ctx, "/v1/status", nil, &st)
		return err == nil && st.Actions[api.Converged] == 1, err
	})
}

// awaitRunning waits until the run after the first n is in its reload, and names it.
func (d *demo) awaitRunning(ctx context.Context, n int) (run string, err error) {
	err = until(ctx, 10*time.Second, "a run begins", func() (bool, error) {
		runs, err := d.runs(ctx)
		if err != nil || len(runs) <= n {
			return false, err
		}
		run = runs[n].ID
		record, err := os.ReadFile(d.file(reloadsFile))
		return strings.HasSuffix(string(record), "begin "+run+"\n"), err
	})
	return run, err
}

// reloaded compares runs with the record of the action.
func (d *demo) reloaded(runs []api.Run) error {
	recorded, err := d.reloads()
	if err != nil {
		return err
	}
	for i, run := range recorded[max(0, len(recorded)-len(runs)):] {
		if run != runs[i].ID {
			return fmt.Errorf("the action recorded runs %q, and the controller knows %s", recorded, runsInShort(runs))
		}
	}
	return nil
}

// over is the runs that have ended.
func over(runs []api.Run) []api.Run {
	return slices.DeleteFunc(slices.Clone(runs), func(r api.Run) bool { return r.Outcome == "" })
}

func runsInShort(runs []api.Run) string {
	var texts []string
	for _, r := range runs {
		texts = append(texts, r.ID+" "+print.Run(r, time.Now()))
	}
	return strings.Join(texts, ", ")
}

// noneFailed reports requests that failed since then.
func (d *demo) noneFailed(since time.Time) error {
	if answered, failed, why := d.visitor.since(since); failed > 0 {
		return fmt.Errorf("%s failed, %v were answered: %s", api.Count(failed, "request"), answered, why)
	}
	return nil
}

// visits counts the requests of a client that never stopped asking.
func (d *demo) visits(since time.Time) string {
	if d.haproxy == "" {
		return ""
	}
	answered, failed, _ := d.visitor.since(since)
	all := failed
	for _, n := range answered {
		all += n
	}
	return fmt.Sprintf("; %d of %s failed", failed, api.Count(all, "request"))
}

// proved prints what a step has shown.
func (d *demo) proved(format string, args ...any) {
	d.timeline.line(green, "✓", format, args...)
}

// kickerCommand runs a command as a person would.
func (d *demo) kickerCommand(ctx context.Context, args ...string) error {
	line := "kicker " + strings.Join(args, " ")
	d.timeline.line(plain, "operator", "types %s", line)
	cmd := exec.CommandContext(ctx, d.kicker, append(args, "--config", d.file("kicker.yaml"))...)
	cmd.Env = environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}

// linger makes reloads take at least t, and go on until linger(0).
func (d *demo) linger(t time.Duration) error {
	if t == 0 {
		return os.Remove(d.file(lingerFile))
	}
	return os.WriteFile(d.file(lingerFile), []byte(t.String()), 0o600)
}

// edit replaces a text in a file atomically.
func (d *demo) edit(name, before, after string) error {
	text, err := os.ReadFile(d.file(name))
	if err != nil {
		return err
	}
	next := d.file(name) + ".new"
	if err := os.WriteFile(next, []byte(strings.Replace(string(text), before, after, 1)), 0o600); err != nil {
		return err
	}
	return os.Rename(next, d.file(name))
}

func seconds(d time.Duration) string { return fmt.Sprintf("%.2f s", d.Seconds()) }
