package kick

import (
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/gofrs/flock"
	"github.com/nats-io/nats.go"
)

// RunnerConfig is the configuration of a Runner.
type RunnerConfig struct {
	Cluster  string
	Node     string
	Instance string // the machine; the state of another one does not count
	Boot     string // the current boot of the machine
	Dir      string // the node's own, kept across reboots
	Actions  []Action
	Execute  Execute
	Log      *slog.Logger
}

// Runner answers a node's kicks and runs one action at a time. The goroutine of Run owns its state.
type Runner struct {
	cfg     RunnerConfig
	state   state
	off     string // why a person allows no runs here, as read last; empty: they may run
	parts   assembly
	changes chan func(state) state // from other goroutines, for Run
}

// NewRunner returns a Runner with the state that it finds in the node's directory.
func NewRunner(cfg RunnerConfig) (*Runner, error) {
	known := cfg.Instance != "" && cfg.Boot != ""
	err := cmp.Or(
		checkName(cfg.Node),
		ensure(known, "node %s: the machine's instance id or boot id is unknown", cfg.Node),
		errors.Join(ValidateActions(cfg.Actions)...),
	)
	if err != nil {
		return nil, err
	}
	cfg.Actions = slices.Clone(cfg.Actions)
	for i, a := range cfg.Actions {
		cfg.Actions[i] = a.withDefaults()
	}
	cfg.Dir, err = filepath.Abs(cfg.Dir) // commands run in another directory
	if err != nil {
		return nil, fmt.Errorf("node's directory: %w", err)
	}
	s, err := loadState(cfg.Dir, cfg.Instance, cfg.Log)
	if err != nil {
		return nil, err
	}
	return &Runner{cfg: cfg, state: s, changes: make(chan func(state) state, 16)}, nil
}

// Seen reports that a controller has published a beacon. Any goroutine may call it; it never blocks.
func (r *Runner) Seen(epoch int64, id string) {
	select {
	case r.changes <- func(s state) state { return s.withController(epoch, id) }:
	default: // another beacon follows
	}
}

// Run answers kicks until ctx ends. A run in progress then goes on, and the next Run adopts it. Run calls status from
// one goroutine: first with the state that it found, then with every change.
func (r *Runner) Run(ctx context.Context, nc *nats.Conn, status func(Status)) error {
	lock, err := r.lockDir()
	if err != nil {
		return err
	}
	defer lock.Unlock()
	messages := make(chan *nats.Msg)
	sub, err := nc.Subscribe(kickSubject(r.cfg.Cluster, r.cfg.Node), func(m *nats.Msg) {
		select {
		case messages <- m:
		case <-ctx.Done():
		}
	})
	if err != nil {
		return fmt.Errorf("listen for kicks: %w", err)
	}
	defer sub.Unsubscribe() // fails if the connection is closed, which does the same
	if err := sub.SetPendingLimits(-1, maxParts*maxInline); err != nil {
		return fmt.Errorf("listen for kicks: %w", err)
	}

	var running sync.WaitGroup
	defer running.Wait()
	endings := make(chan Ending, 1)
	start := func(l Launch) {
		running.Go(func() {
			ending, err := r.cfg.Execute(ctx, l)
			switch {
			case err == nil:
				endings <- ending
			case ctx.Err() == nil:
				endings <- Ending{Exit: -1, Error: err.Error()}
			}
		})
	}

	if r.state.Run != nil {
		start(r.adopt())
	}
	r.off = r.disabled()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	var reported *Status
	for {
		if now := r.status(); reported == nil || !reflect.DeepEqual(now, *reported) {
			reported = &now
			status(now)
		}
		select {
		case <-ctx.Done():
			return nil
		case m := <-messages:
			switch kindOf(m.Data) {
			case partMessage:
				r.keepPart(m.Data)
			case rosterMessage:
				r.publish(nc, m.Reply, r.rosterPage(m.Data))
			case kickMessage:
				reply, launch := r.handleKick(m.Data)
				if launch != nil {
					start(*launch)
				}
				r.publish(nc, m.Reply, reply)
			}
		case <-look.C:
			r.off = r.disabled()
		case change := <-r.changes:
			r.setState(change(r.state))
		case ending := <-endings:
			r.publish(nc, resultSubject(r.cfg.Cluster, r.cfg.Node), r.finish(ending))
		}
	}
}

// lookEvery is how often the file disabled is looked for.
const lookEvery = time.Second

const (
	lockName    = "agent.lock"
	lockTimeout = 2 * time.Second       // for which an agent waits for the lock of the node's directory
	lockPause   = 20 * time.Millisecond // between two tries to take a lock
)

// lockDir makes the node's directory this agent's alone: two agents would overwrite each other's state.
func (r *Runner) lockDir() (*flock.Flock, error) {
	lock := flock.New(filepath.Join(r.cfg.Dir, lockName))
	err := os.MkdirAll(r.cfg.Dir, 0o755)
	// A killed agent may leave a child that holds the lock until it becomes a shim.
	ctx, cancel := context.WithTimeout(context.Background(), lockTimeout)
	defer cancel()
	if err == nil {
		_, err = lock.TryLockContext(ctx, lockPause)
	}
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		return nil, fmt.Errorf("node's directory %s: another agent uses it: "+
			"stop that one, or give this one its own name or state_dir", r.cfg.Dir)
	case err != nil:
		return nil, fmt.Errorf("node's directory: %w", err)
	}
	return lock, nil
}

func (r *Runner) keepPart(data []byte) {
	part, err := decodePart(data)
	if err != nil {
		r.cfg.Log.Warn("invalid part of a kick", "err", err)
		return
	}
	r.parts.add(part)
}

// handleKick answers a kick. If it returns a Launch, the run is on disk and has to be started.
func (r *Runner) handleKick(data []byte) (Reply, *Launch) {
	k, err := decodeKick(r.cfg.Node, data)
	if err != nil {
		r.cfg.Log.Warn("invalid kick", "err", err)
		return Reply{V: Version, Answer: Invalid, Detail: bounded(printable(err.Error()), maxText)}, nil
	}
	log := r.cfg.Log.With("action", k.Action, "run", k.ID)
	k = r.parts.complete(k)
	r.off = r.disabled()
	next, reply := r.state.decide(time.Now(), r.cfg.Actions, r.off, k)
	if starts := next.Run != nil && r.state.Run == nil; !starts {
		r.setState(next)
		if reply.Answer != AlreadyApplied && reply.Answer != Accepted {
			log.Warn("kick rejected", "answer", reply.Answer, "detail", reply.Detail,
				"controller", k.Controller, "epoch", k.Epoch)
		}
		return reply, nil
	}
	launch, err := r.prepare(next, k)
	if err == nil {
		err = next.save(r.cfg.Dir)
	}
	if err != nil {
		log.Error("kick rejected, cannot write the node's state", "err", err)
		r.state = r.state.withController(k.Epoch, k.Controller)
		detail := bounded(printable("cannot write the node's state: "+err.Error()), maxText)
		return Reply{V: Version, Answer: CannotRun, Detail: detail}, nil
	}
	r.state = next
	log.Info("run started", "reason", k.Reason)
	return reply, &launch
}

// setState sets a state that need not be on disk before something else happens.
func (r *Runner) setState(next state) {
	if reflect.DeepEqual(next, r.state) {
		return
	}
	r.state = next
	if err := next.save(r.cfg.Dir); err != nil {
		r.cfg.Log.Error("cannot write the node's state", "err", err)
	}
}

// disabled returns why the operator allows no runs, from the file disabled in the node's directory, or "".
func (r *Runner) disabled() string {
	path := filepath.Join(r.cfg.Dir, "disabled")
	info, err := os.Stat(path)
	if errors.Is(err, fs.ErrNotExist) {
		return ""
	}
	var content []byte
	if err == nil && info.Mode()&fs.ModeNamedPipe == 0 { // reading a pipe would wait for its writer
		content, err = readStart(path, maxText)
	}
	if err != nil {
		return bounded(printable("cannot "+err.Error()), maxText)
	}
	reason := cmp.Or(strings.TrimSpace(printable(string(content))), "no reason given")
	return bounded(printable(path)+": "+reason, maxText)
}

// readStart reads so many bytes of a file, if it has them.
func readStart(path string, most int64) ([]byte, error) {
	f, err := os.Open(path)
	if err != nil {
		return nil, err
	}
	defer f.Close()
	return io.ReadAll(io.LimitReader(f, most))
}

// status is what the next heartbeat reports.
func (r *Runner) status() Status {
	s := r.state.status(r.cfg.Actions)
	s.Disabled = r.off
	return s
}

// prepare writes the directory of a run, and removes the directories of old runs.
func (r *Runner) prepare(next state, k Kick) (Launch, error) {
	action := r.cfg.Actions[actionIndex(r.cfg.Actions, k.Action)]
	launch := Launch{
		Dir: r.cfg.Dir, Run: k.ID, Action: k.Action, Boot: r.cfg.Boot,
		Command: action.Command, Timeout: action.Timeout, Grace: action.Grace,
	}
	r.prune(next)
	before := loadApplied(r.cfg.Dir, k.Action, r.state.Actions[k.Action].Applied)
	after := membersOf(k)
	launch.Env = append(slices.Clone(action.Env), environment(k, launch.membersFile(), before, after)...)
	return launch, cmp.Or(
		os.RemoveAll(launch.runDir()),
		os.MkdirAll(launch.runDir(), 0o755),
		writeFile(launch.membersFile(), after, 0o644),
	)
}

// prune removes the directories of runs that no action keeps.
func (r *Runner) prune(s state) {
	var kept []string
	for _, a := range s.Actions {
		kept = append(kept, a.Runs...)
	}
	dirs, _ := os.ReadDir(filepath.Join(r.cfg.Dir, "runs")) // fails before the first run
	for _, d := range dirs {
		if slices.Contains(kept, d.Name()) {
			continue
		}
		if err := os.RemoveAll(filepath.Join(r.cfg.Dir, "runs", d.Name())); err != nil {
			r.cfg.Log.Warn("cannot remove the directory of an old run", "run", d.Name(), "err", err)
		}
	}
}

// adopt returns the launch of the run that a previous agent left in progress.
func (r *Runner) adopt() Launch {
	adopted := *r.state.Run
	adopted.deadline = time.Now().Add(time.Duration(adopted.Limit) * time.Millisecond)
	r.state.Run = &adopted
	r.cfg.Log.Info("run adopted from the previous agent", "action", adopted.Action, "run", adopted.ID)
	return Launch{Dir: r.cfg.Dir, Run: adopted.ID, Action: adopted.Action, Boot: r.cfg.Boot, Adopt: true}
}

// finish writes down how the run in progress ended.
func (r *Runner) finish(e Ending) Result {
	next, result := r.state.afterRun(e)
	result.Node = r.cfg.Node
	log := r.cfg.Log.With("action", result.Action, "run", result.Run, "duration_ms", result.Duration)
	if result.Outcome == Succeeded {
		var members json.RawMessage
		err := readFile(Launch{Dir: r.cfg.Dir, Run: result.Run}.membersFile(), &members)
		if err == nil {
			err = replaceFile(appliedPath(r.cfg.Dir, result.Action), members, 0o644)
		}
		if err != nil {
			log.Error("cannot save the members that the run applied", "err", err)
		}
		log.Info("run succeeded")
	} else {
		exit := fmt.Sprintf("exit code %d", result.Exit)
		log.Warn("run did not succeed", "outcome", result.Outcome, "err", cmp.Or(result.Error, exit))
	}
	r.setState(next) // if that fails, the next agent reads the ending again
	return result
}

// publish sends a message. A lost reply makes the controller ask again; the next heartbeat reports a lost result.
func (r *Runner) publish(nc *nats.Conn, subject string, message any) {
	if subject == "" {
		return // the sender wants no reply
	}
	data, err := json.Marshal(message)
	if err == nil {
		err = nc.Publish(subject, data)
	}
	if err != nil {
		r.cfg.Log.Warn("cannot send a message to the controller", "subject", subject, "err", err)
	}
}
