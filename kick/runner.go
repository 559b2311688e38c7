package kick

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/nats-io/nats.go"
)

// RunnerConfig is what a Runner is made of.
type RunnerConfig struct {
	Cluster  string
	Node     string
	Instance string // which machine bears the name; what another one remembered does not count
	Boot     string // which boot of it
	Dir      string // the node's own, kept across reboots
	Actions  []Action
	Execute  Execute
	Log      *slog.Logger
}

// Runner is the node's end of a kick: it answers, runs one action at a time and remembers what is applied. Run's goroutine owns
// the state.
type Runner struct {
	cfg   RunnerConfig
	state state
	parts assembly
	seen  chan sighting
}

type sighting struct {
	epoch      int64
	controller string
}

// NewRunner reads what the node remembers in its directory.
func NewRunner(cfg RunnerConfig) (*Runner, error) {
	if err := checkName(cfg.Node); err != nil {
		return nil, err
	}
	if cfg.Instance == "" || cfg.Boot == "" {
		return nil, fmt.Errorf("node %s: which machine and which boot of it is not known", cfg.Node)
	}
	if err := errors.Join(ValidateActions(cfg.Actions)...); err != nil {
		return nil, err
	}
	actions := slices.Clone(cfg.Actions)
	for i := range actions {
		actions[i] = actions[i].withDefaults()
	}
	cfg.Actions = actions
	dir, err := filepath.Abs(cfg.Dir) // runs have another working directory
	if err != nil {
		return nil, fmt.Errorf("node's directory %s: %w", cfg.Dir, err)
	}
	cfg.Dir = dir
	s, err := loadState(cfg.Dir, cfg.Instance, cfg.Log)
	if err != nil {
		return nil, err
	}
	return &Runner{cfg: cfg, state: s, seen: make(chan sighting, 16)}, nil
}

// Seen tells that a controller was heard. It may be called from any goroutine and never waits.
func (r *Runner) Seen(epoch int64, controller string) {
	select {
	case r.seen <- sighting{epoch, controller}:
	default: // the next beacon says it again
	}
}

// Run obeys kicks until ctx ends; a run in progress then goes on, and the next Run adopts it. status is called with what is
// remembered first, and then with every change, from one goroutine.
func (r *Runner) Run(ctx context.Context, nc *nats.Conn, status func(Status)) error {
	own, err := r.own()
	if err != nil {
		return err
	}
	defer own.Close()
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
	defer sub.Unsubscribe() // of a connection that is closing anyway
	if err := sub.SetPendingLimits(-1, maxParts); err != nil {
		return fmt.Errorf("listen for kicks: %w", err)
	}

	var running sync.WaitGroup
	defer running.Wait()
	ended := make(chan Ending, 1)
	start := func(l Launch) {
		running.Go(func() {
			ending, err := r.cfg.Execute(ctx, l)
			if err != nil && ctx.Err() != nil {
				return
			}
			if err != nil {
				ending = Ending{Exit: -1, Error: err.Error()}
			}
			ended <- ending
		})
	}

	told := r.state.status(r.cfg.Actions)
	status(told)
	if r.state.Run != nil {
		start(r.adopt())
	}
	for {
		select {
		case <-ctx.Done():
			return nil
		case m := <-messages:
			if isPart(m.Data) {
				r.keepPart(m.Data)
				continue
			}
			if isRosterRequest(m.Data) {
				r.answer(m, r.roster(m.Data))
				continue
			}
			reply, launch := r.obey(m.Data)
			if launch != nil {
				start(*launch)
			}
			r.answer(m, reply)
		case s := <-r.seen:
			r.become(r.state.saw(s.epoch, s.controller))
		case ending := <-ended:
			r.publish(nc, r.finish(ending))
		}
		if now := r.state.status(r.cfg.Actions); !reflect.DeepEqual(now, told) {
			told = now
			status(now)
		}
	}
}

// ownWithin is how long an agent waits for the one before it to let go.
const ownWithin = 2 * time.Second

// own makes the directory this agent's alone: two that both remember what is applied would undo each other's memory.
func (r *Runner) own() (*os.File, error) {
	if err := os.MkdirAll(r.cfg.Dir, 0o755); err != nil {
		return nil, fmt.Errorf("node's directory: %w", err)
	}
	// A former agent that was killed may have left a child that has the lock until it has become a shim.
	ctx, cancel := context.WithTimeout(context.Background(), ownWithin)
	defer cancel()
	f, err := acquire(ctx, filepath.Join(r.cfg.Dir, "agent.lock"))
	if errors.Is(err, context.DeadlineExceeded) {
		return nil, fmt.Errorf("node's directory %s: another agent uses it: stop that one, or give this one a name or a state_dir of its own", r.cfg.Dir)
	} else if err != nil {
		return nil, fmt.Errorf("node's directory: %w", err)
	}
	return f, nil
}

func (r *Runner) keepPart(data []byte) {
	part, err := decodePart(data)
	if err != nil {
		r.cfg.Log.Warn("a part of a kick is no good", "err", err)
		return
	}
	r.parts.add(part)
}

// obey answers a kick. What comes with the answer is to be launched: its state is on the disk.
func (r *Runner) obey(data []byte) (Reply, *Launch) {
	k, err := decodeKick(r.cfg.Node, data)
	if err != nil {
		r.cfg.Log.Warn("a kick is no good", "err", err)
		return Reply{V: Version, Answer: Invalid, Detail: err.Error()}, nil
	}
	log := r.cfg.Log.With("action", k.Action, "run", k.ID)
	k = r.parts.complete(k)
	next, reply := r.state.decide(time.Now(), r.cfg.Actions, r.disabled(), k)
	if next.Run == nil || r.state.Run != nil {
		r.become(next)
		if reply.Answer != AlreadyApplied && reply.Answer != Accepted {
			log.Warn("a kick is refused", "answer", reply.Answer, "detail", reply.Detail, "controller", k.Controller, "epoch", k.Epoch)
		}
		return reply, nil
	}

	launch, err := r.prepare(next, k)
	if err == nil {
		err = next.save(r.cfg.Dir)
	}
	if err != nil {
		log.Error("a kick is refused: the node's directory can't be written", "err", err)
		r.state = r.state.saw(k.Epoch, k.Controller)
		return Reply{V: Version, Answer: Disabled, Detail: err.Error()}, nil
	}
	r.state = next
	log.Info("run starts", "reason", k.Reason)
	return reply, &launch
}

// become takes a state in which nothing has to be on the disk before something is done.
func (r *Runner) become(next state) {
	if reflect.DeepEqual(next, r.state) {
		return
	}
	r.state = next
	if err := next.save(r.cfg.Dir); err != nil {
		r.cfg.Log.Error("the node's directory can't be written", "err", err)
	}
}

// disabled is what the operator's file says of why nothing may run, or empty.
func (r *Runner) disabled() string {
	path := filepath.Join(r.cfg.Dir, "disabled")
	reason, err := os.ReadFile(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return ""
	case err != nil:
		return err.Error()
	}
	said := strings.TrimSpace(strings.ToValidUTF8(string(reason[:min(len(reason), 1024)]), ""))
	if said == "" {
		said = "no reason given"
	}
	return path + ": " + said
}

// prepare makes the directory of a run, and room for it.
func (r *Runner) prepare(next state, k Kick) (Launch, error) {
	action := r.cfg.Actions[slices.IndexFunc(r.cfg.Actions, func(a Action) bool { return a.Name == k.Action })]
	launch := Launch{
		Dir: r.cfg.Dir, Run: k.ID, Action: k.Action, Boot: r.cfg.Boot,
		Command: action.Command, Timeout: action.Timeout, Grace: action.Grace,
	}
	r.prune(next)
	before := loadApplied(r.cfg.Dir, k.Action, r.state.Actions[k.Action].Applied)
	after := membersOf(k)
	launch.Env = append(slices.Clone(action.Env), environment(k, launch.membersFile(), before, after)...)

	data, err := json.Marshal(after)
	if err != nil {
		return launch, err
	}
	if err := os.RemoveAll(launch.runDir()); err != nil {
		return launch, fmt.Errorf("cannot keep state: %w", err)
	}
	if err := os.MkdirAll(launch.runDir(), 0o755); err != nil {
		return launch, fmt.Errorf("cannot keep state: %w", err)
	}
	if err := os.WriteFile(launch.membersFile(), append(data, '\n'), 0o644); err != nil {
		return launch, fmt.Errorf("cannot keep state: %w", err)
	}
	return launch, nil
}

// prune removes the directories of runs that no action keeps.
func (r *Runner) prune(s state) {
	kept := map[string]bool{}
	for _, a := range s.Actions {
		for _, id := range a.Runs {
			kept[id] = true
		}
	}
	dirs, err := os.ReadDir(filepath.Join(r.cfg.Dir, "runs"))
	if err != nil {
		return // there are none yet; if it is something worse, making one says so
	}
	for _, d := range dirs {
		if kept[d.Name()] {
			continue
		}
		if err := os.RemoveAll(filepath.Join(r.cfg.Dir, "runs", d.Name())); err != nil {
			r.cfg.Log.Warn("an old run can't be removed", "run", d.Name(), "err", err)
		}
	}
}

// adopt is the launch of a run that a former agent left in progress.
func (r *Runner) adopt() Launch {
	adopted := *r.state.Run
	adopted.over = time.Now().Add(time.Duration(adopted.Deadline) * time.Millisecond) // at the latest: when it began is not known
	r.state.Run = &adopted
	r.cfg.Log.Info("run of a former agent is adopted", "action", adopted.Action, "run", adopted.ID)
	return Launch{Dir: r.cfg.Dir, Run: adopted.ID, Action: adopted.Action, Boot: r.cfg.Boot, Adopt: true}
}

// finish writes down how the run in progress ended.
func (r *Runner) finish(e Ending) Result {
	id := r.state.Run.ID
	next, result := r.state.ended(e)
	result.Node = r.cfg.Node
	log := r.cfg.Log.With("action", result.Action, "run", id)
	if result.Outcome == Succeeded {
		if err := r.keepApplied(id, result.Action); err != nil {
			log.Error("the members applied can't be kept", "err", err)
		}
		log.Info("run succeeded", "duration_ms", result.Duration)
	} else {
		log.Warn("run did not succeed", "outcome", result.Outcome, "exit", result.Exit, "duration_ms", result.Duration, "err", result.Error)
	}
	r.become(next) // if it is not on the disk the next agent finds the ending again
	return result
}

func (r *Runner) keepApplied(id, action string) error {
	data, err := os.ReadFile(Launch{Dir: r.cfg.Dir, Run: id}.membersFile())
	if err != nil {
		return err
	}
	return replaceFile(appliedPath(r.cfg.Dir, action), data, 0o644)
}

func (r *Runner) answer(m *nats.Msg, reply any) {
	if m.Reply == "" {
		return
	}
	data, err := json.Marshal(reply)
	if err == nil {
		err = m.Respond(data)
	}
	if err != nil {
		r.cfg.Log.Warn("a message of the controller can't be answered", "err", err)
	}
}

// publish says how a run ended. If nobody hears it the heartbeat still says it.
func (r *Runner) publish(nc *nats.Conn, result Result) {
	data, err := json.Marshal(result)
	if err == nil {
		err = nc.Publish(resultSubject(r.cfg.Cluster, r.cfg.Node), data)
	}
	if err != nil {
		r.cfg.Log.Warn("a result can't be published", "action", result.Action, "run", result.Run, "err", err)
	}
}
