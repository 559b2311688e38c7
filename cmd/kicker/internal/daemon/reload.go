package daemon

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"time"

	"kicker/config"
	"kicker/controller"
	"kicker/controller/api"
)

// lookAtConfigEvery is how often the configuration file is read. What was seen twice is no longer being written.
const lookAtConfigEvery = 2 * time.Second

// reloader gives a running controller its configuration anew, when it is told to and when the file has changed. What is no good is told
// of once, and the configuration in force stays.
type reloader struct {
	options config.Options
	running config.Config // as it was at the start: what differs from it where only a start counts is refused
	control *controller.Controller
	log     *slog.Logger
	tried   look // last
	inForce look
}

// newReloader is for the configuration that is loaded after this: what changes in between is seen.
func newReloader(o config.Options) *reloader {
	now := lookAtConfig(o)
	return &reloader{options: o, tried: now, inForce: now}
}

// look is what the configuration file is at one moment.
type look struct {
	file, text string
	wrong      string // why it can't be read; then there is no text
}

func lookAtConfig(o config.Options) look {
	file, err := config.Find(o)
	if err != nil {
		return look{wrong: err.Error()}
	}
	if file == "" {
		return look{}
	}
	text, err := os.ReadFile(file)
	if err != nil {
		return look{file: file, wrong: fmt.Sprintf("configuration: %v", err)}
	}
	return look{file: file, text: string(text)}
}

// run reloads until ctx ends.
func (r *reloader) run(ctx context.Context, told <-chan os.Signal) error {
	tick := time.NewTicker(lookAtConfigEvery)
	defer tick.Stop()
	seen := r.tried
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-told:
			r.log.Info("told to reload")
			r.reload(ctx, lookAtConfig(r.options))
		case <-tick.C:
			was := seen
			if seen = lookAtConfig(r.options); seen == was && seen != r.tried {
				r.reload(ctx, seen)
			}
		}
	}
}

func (r *reloader) reload(ctx context.Context, l look) {
	r.tried = l
	cfg, err := r.configured(l)
	if err != nil {
		_ = r.control.RefuseReload(ctx, err) // fails only when ctx ends
	} else if err = r.control.Reload(ctx, cfg); err == nil {
		r.inForce = l
		return
	}
	if ctx.Err() == nil {
		r.log.Error("the configuration was not reloaded, the old one stays", "err", err)
	}
}

// configured is what the loop is to take from the file.
func (r *reloader) configured(is look) (controller.Config, error) {
	was := r.inForce
	switch {
	case is.wrong != "":
		return controller.Config{}, errors.New(is.wrong)
	case is.file == "" && was.file != "":
		return controller.Config{}, fmt.Errorf("configuration: %s is gone", was.file)
	case strings.TrimSpace(is.text) == "" && strings.TrimSpace(was.text) != "":
		return controller.Config{}, fmt.Errorf("configuration: %s is empty: if you mean it, restart the controller", is.file)
	}
	return r.parse(is.file, []byte(is.text))
}

// parse reads a configuration as the controller read its own when it started.
func (r *reloader) parse(file string, text []byte) (controller.Config, error) {
	o := r.options
	o.File = file
	cfg, err := config.Parse(text, o)
	if err != nil {
		return controller.Config{}, err
	}
	if keys := config.NeedRestart(r.running, cfg); len(keys) > 0 {
		return controller.Config{}, fmt.Errorf("configuration: %s can't change while the controller runs: undo that, or restart it", strings.Join(keys, ", "))
	}
	return cfg.Config, nil
}

// plan is what would become of the text of a configuration.
func (r *reloader) plan(ctx context.Context, text []byte) (api.Plan, error) {
	cfg, err := r.parse("the new configuration", text)
	if err != nil {
		return api.Plan{}, err
	}
	return r.control.Plan(ctx, cfg)
}
