package demo

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"maps"
	"os"
	"os/exec"
	"slices"
	"strings"
	"syscall"
	"time"

	"kicker/controller/api"
	"kicker/kick"
)

// step is a part of the story. It fails if its effect can not be seen from outside.
type step struct {
	title    string
	do       func(context.Context) error
	during   func(context.Context) error // what is done while the reload that do leads to is in progress; may be nil
	served   []string                    // the servers that get requests then, and no others
	mayFail  bool                        // requests may fail until then
	outcomes string                      // of its runs, in order, as in "failed succeeded", or none; empty: any
	check    func(context.Context, times) error
	proof    string // the effect in words; a $name in it stands for a time
}

// times is how long it took to do the step, from then until served, from then until converged, and the waits between
// runs: wait1 is before the second one.
type times map[string]time.Duration

func (d *demo) story() []step {
	return []step{{
		title:   "Everything starts",
		do:      d.startCluster,
		served:  []string{"web1", "web2", "web3"},
		mayFail: true,
		proof:   "all three get requests $served after the start; a new controller only listens for about 3.7 s",
	}, {
		title:  "web4 joins and gets no requests before it is ready",
		do:     d.joinUnready,
		served: []string{"web1", "web2", "web3", "web4"},
		proof:  "web4 gets requests $served after it was ready, none before",
	}, {
		title:   "web2 is killed",
		do:      d.stopping("web2", syscall.SIGKILL),
		served:  []string{"web1", "web3", "web4"},
		mayFail: true,
		check:   d.checkGone,
		proof:   "web2 is removed $served after SIGKILL; 1.5 s of it are for agents that only restart",
	}, {
		title:  "web3 leaves and waits until the load balancer does not use it",
		do:     d.leaveAndStop,
		served: []string{"web1", "web4"},
		proof:  "kicker leave --wait returned and web3 was stopped within $doing",
	}, {
		title:    "A run fails twice, then succeeds",
		do:       d.makeMistake,
		served:   []string{"web1", "web4", "web5"},
		outcomes: "failed failed succeeded",
		check:    checkBackoffs,
		proof:    "retried after $wait1 and $wait2; HAProxy never had the wrong configuration",
	}, {
		title:    "A member joins and another leaves during one run",
		do:       d.starting("web6"),
		during:   func(ctx context.Context) error { return d.command(ctx, "leave", "--name", "web5") },
		served:   []string{"web1", "web4", "web6"},
		outcomes: "succeeded succeeded",
		check:    func(context.Context, times) error { return d.crew.stop("web5", syscall.SIGTERM) },
		proof:    "exactly one more run; both changes have their effect $served after the second one",
	}, {
		title:    "The agent is killed during a run",
		do:       d.starting("web7"),
		during:   d.stopping("lb1", syscall.SIGKILL),
		served:   []string{"web1", "web4", "web6", "web7"},
		outcomes: "succeeded",
		proof:    "the run continued, and $converged after SIGKILL its outcome is known: succeeded",
	}, {
		title:    "The controller is killed and no action runs",
		do:       d.stopping("controller", syscall.SIGKILL),
		served:   []string{"web1", "web4", "web6", "web7"},
		outcomes: "none",
		proof:    "$converged after SIGKILL the next controller knows all nodes, and it runs no action",
	}}
}

// play plays a step, and prints what it has shown.
func (d *demo) play(ctx context.Context, s step) error {
	if err := os.WriteFile(d.file(reloadsFile), nil, 0o600); err != nil {
		return err
	}
	began := time.Now()
	acted, err := d.act(ctx, s)
	if err != nil {
		return err
	}
	if err := d.awaitServed(ctx, s.served); err != nil {
		return err
	}
	served := time.Now()
	var runs []api.Run
	so := func() (err error) {
		runs, err = d.converged(ctx, began, s.outcomes)
		return err
	}
	if err := until(ctx, "lb1 is converged", so); err != nil {
		return err
	}
	took := times{"doing": acted.Sub(began), "served": served.Sub(acted), "converged": time.Since(acted)}
	if s.outcomes != "" {
		pause(ctx, 1500*time.Millisecond) // one run too many would begin in this time
		if err := so(); err != nil {
			return err
		}
	}
	for i := 1; i < len(runs); i++ {
		took[fmt.Sprint("wait", i)] = runs[i].Started.Sub(runs[i-1].Ended)
	}
	if s.check != nil {
		if err := s.check(ctx, took); err != nil {
			return err
		}
	}
	if now := d.served(); !slices.Equal(now, s.served) {
		return fmt.Errorf("requests went to %s, and now go to %s", orNone(s.served), orNone(now))
	}
	visits, failed := d.visitsSince(began), 0
	for _, v := range visits {
		if v.err == nil {
			continue
		}
		failed++
		if !s.mayFail || v.at.After(served) {
			return fmt.Errorf("a request failed: %w", v.err)
		}
	}
	proof := os.Expand(s.proof, func(name string) string { return seconds(took[name]) })
	if d.haproxy != "" {
		proof += fmt.Sprintf("; %d of %s failed", failed, api.Count(len(visits), "request"))
	}
	d.timeline.line(green, "✓", "%s", proof)
	return nil
}

// act does what a step does, and says when that was.
func (d *demo) act(ctx context.Context, s step) (time.Time, error) {
	if s.during != nil {
		if err := os.WriteFile(d.file(lingerFile), nil, 0o600); err != nil {
			return time.Time{}, err
		}
		defer os.Remove(d.file(lingerFile))
	}
	if err := s.do(ctx); err != nil || s.during == nil {
		return time.Now(), err
	}
	if err := until(ctx, "a reload begins", func() error {
		record, err := os.Stat(d.file(reloadsFile))
		if err == nil && record.Size() == 0 {
			err = errors.New("none is recorded")
		}
		return err
	}); err != nil {
		return time.Time{}, err
	}
	err := s.during(ctx)
	acted := time.Now()
	pause(ctx, 1500*time.Millisecond) // an agent that was killed is back before the run ends
	return acted, err
}

// awaitServed waits until exactly these servers get requests, and each of them answers.
func (d *demo) awaitServed(ctx context.Context, names []string) error {
	if err := until(ctx, "requests go to exactly "+strings.Join(names, " "), func() error {
		if now := d.served(); !slices.Equal(now, names) {
			return fmt.Errorf("they go to %s", orNone(now))
		}
		return nil
	}); err != nil || d.haproxy == "" {
		return err
	}
	since := time.Now()
	return until(ctx, "each of them answers through HAProxy, and no other server", func() error {
		answered := map[string]bool{}
		for _, v := range d.visitsSince(since) {
			answered[v.by] = true
		}
		delete(answered, "") // of requests that failed
		if by := slices.Sorted(maps.Keys(answered)); !slices.Equal(by, names) {
			return fmt.Errorf("these answer: %s", orNone(by))
		}
		return nil
	})
}

// converged is the runs since then, if lb1 is converged and they ended like want, which is empty for anyhow. The record
// must have a reload of each run that succeeded, one after the other.
func (d *demo) converged(ctx context.Context, since time.Time, want string) ([]api.Run, error) {
	st, err := ask[api.Status](ctx, d, "/v1/status")
	if err != nil {
		return nil, err
	}
	runs, err := d.runs(ctx, since)
	if err != nil {
		return nil, err
	}
	record, err := readText(d.file(reloadsFile))
	if err != nil {
		return nil, err
	}
	var outcomes []string
	wantRecord := ""
	for _, run := range runs {
		outcomes = append(outcomes, string(run.Outcome))
		if run.Outcome == kick.Succeeded {
			wantRecord += run.ID + "\n" + run.ID + "\n"
		}
	}
	ended := orNone(outcomes)
	asWanted := ended == cmp.Or(want, ended) && record == wantRecord
	if !st.Sync.Open || st.Actions[api.Converged] != 1 || slices.Contains(outcomes, "") || !asWanted {
		return nil, fmt.Errorf("actions: %v; runs ended: %s, want %s; reloads: %q, want %q",
			st.Actions, ended, want, record, wantRecord)
	}
	return runs, nil
}

func checkBackoffs(_ context.Context, took times) error {
	if took["wait1"] < 700*time.Millisecond || took["wait2"] < 1400*time.Millisecond {
		return fmt.Errorf("the retries came too early, want a longer backoff: %v", took)
	}
	return nil
}

func (d *demo) checkGone(ctx context.Context, _ times) error {
	if _, err := ask[api.Node](ctx, d, "/v1/nodes/web2"); err == nil {
		return errors.New("web2 is still in the inventory")
	}
	return nil
}

func (d *demo) startCluster(context.Context) error {
	err := d.crew.start("controller", d.kicker, "controller", "--config", d.file("kicker.yaml"))
	if d.haproxy != "" {
		err = errors.Join(err,
			d.crew.start("haproxy", d.haproxy, "-W", "-p", d.file(masterFile), "-f", d.file("haproxy.cfg")))
	}
	err = errors.Join(err, d.crew.start("lb1", d.kicker, "agent", "--config", d.file("lb1.yaml")))
	for _, name := range []string{"web1", "web2", "web3"} {
		err = errors.Join(err, d.startWeb(name, 500*time.Millisecond))
	}
	return err
}

func (d *demo) startWeb(name string, warmUp time.Duration) error {
	return d.crew.start(name, d.kicker, "demo-node", name,
		"--warm-up", warmUp.String(), "--config", d.file("kicker.yaml"))
}

func (d *demo) starting(web string) func(context.Context) error {
	return func(context.Context) error { return d.startWeb(web, 0) }
}

func (d *demo) stopping(name string, signal os.Signal) func(context.Context) error {
	return func(context.Context) error { return d.crew.stop(name, signal) }
}

// joinUnready starts web4, and returns when it is ready.
func (d *demo) joinUnready(ctx context.Context) error {
	if err := d.startWeb("web4", 1500*time.Millisecond); err != nil {
		return err
	}
	return until(ctx, "web4 is ready", func() error {
		served := slices.Contains(d.served(), "web4") // before fetch: it may become ready in between
		node, err := ask[api.Explanation](ctx, d, "/v1/nodes/web4/explain")
		if err != nil {
			return err
		}
		_, err = fetch(fmt.Sprintf("http://%v:%v/", node.Facts["ipaddress"], node.Facts["port"]))
		if err != nil && (served || node.Member) {
			return impossible("web4 is a member or gets requests, and is not ready: " + err.Error())
		}
		return err
	})
}

func (d *demo) leaveAndStop(ctx context.Context) error {
	if err := d.command(ctx, "leave", "--wait", "--name", "web3", "--timeout", "20s"); err != nil {
		return err
	}
	if servers, err := readServers(d.dir, d.haproxy != ""); err != nil || servers["web3"] != "" {
		return fmt.Errorf("kicker leave --wait has returned, and web3 still gets requests: %v (%v)", servers, err)
	}
	return d.crew.stop("web3", syscall.SIGTERM)
}

// makeMistake makes runs fail until two have, and corrects it.
func (d *demo) makeMistake(ctx context.Context) error {
	right, wrong := "balance roundrobin", "balance rundrobin"
	if d.haproxy == "" {
		right, wrong = ".facts.port", ".facts.prot" // nothing checks the file
	}
	began := time.Now()
	if err := errors.Join(d.edit(right, wrong), d.startWeb("web5", 0)); err != nil {
		return err
	}
	if err := until(ctx, "two runs fail", func() error {
		if slices.Contains(d.served(), "web5") {
			return impossible("web5 gets requests, although its configuration is wrong")
		}
		runs, err := d.runs(ctx, began)
		if err == nil && (len(runs) < 2 || runs[1].Outcome == "") {
			err = fmt.Errorf("the controller knows of %s", api.Count(len(runs), "run"))
		}
		return err
	}); err != nil {
		return err
	}
	return d.edit(wrong, right)
}

// edit replaces a text in the template of haproxy.cfg.
func (d *demo) edit(before, after string) error {
	const name = "haproxy.cfg.tmpl"
	d.timeline.line(plain, "operator", "writes %q into %s, not %q", after, name, before)
	text, err := readText(d.file(name))
	if err != nil {
		return err
	}
	return os.WriteFile(d.file(name), []byte(strings.Replace(text, before, after, 1)), 0o600)
}

// command runs a command of kicker as a person would.
func (d *demo) command(ctx context.Context, args ...string) error {
	line := "kicker " + strings.Join(args, " ")
	d.timeline.line(plain, "operator", "types %s", line)
	cmd := exec.CommandContext(ctx, d.kicker, append(args, "--config", d.file("kicker.yaml"))...)
	cmd.Env = environment()
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", line, err, out)
	}
	return nil
}
