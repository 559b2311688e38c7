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

// reloader reloads a controller's configuration on SIGHUP and when the file has changed. It reports a wrong one once.
type reloader struct {
	options config.Options
	running config.Config // as at the start: some settings can only change with a restart
	control *controller.Controller
	log     *slog.Logger
	tried   look // last
	inForce look
}

// newReloader makes a reloader. Call it before the configuration is loaded, so that it sees a change in between.
func newReloader(o config.Options) *reloader {
	now := lookAtConfig(o)
	return &reloader{options: o, tried: now, inForce: now}
}

// look is the configuration file at one moment.
type look struct {
	file, text string
	wrong      string // why the file can't be read
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
func (r *reloader) run(ctx context.Context, hangups <-chan os.Signal) error {
	tick := time.NewTicker(2 * time.Second) // a content that was read twice is complete
	defer tick.Stop()
	seen := r.tried
	for {
		select {
		case <-ctx.Done():
			return nil
		case <-hangups:
			r.log.Info("reload requested", "signal", "SIGHUP")
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
	if err == nil {
		err = r.control.Reload(ctx, cfg)
	} else {
		_ = r.control.RejectReload(ctx, err) // fails only when ctx ends
	}
	switch {
	case err == nil:
		r.inForce = l
	case ctx.Err() == nil:
		r.log.Error("reload rejected, the old configuration stays", "err", err)
	}
}

// configured is the configuration in a file, for the controller's loop.
func (r *reloader) configured(is look) (cfg controller.Config, err error) {
	was := r.inForce
	switch {
	case is.wrong != "":
		return cfg, errors.New(is.wrong)
	case is.file == "" && was.file != "":
		return cfg, fmt.Errorf("configuration file %s no longer exists", was.file)
	case strings.TrimSpace(is.text) == "" && strings.TrimSpace(was.text) != "":
		return cfg, fmt.Errorf("configuration file %s is empty: to use the defaults restart the controller", is.file)
	}
	return r.parse(is.file, []byte(is.text))
}

// parse reads a configuration as the controller read its own at the start.
func (r *reloader) parse(file string, text []byte) (controller.Config, error) {
	o := r.options
	o.File = file
	cfg, err := config.Parse(text, o)
	if keys := config.NeedRestart(r.running, cfg); err == nil && len(keys) > 0 {
		err = fmt.Errorf("configuration: %s can't change while the controller runs: undo that or restart it",
			strings.Join(keys, ", "))
	}
	return cfg.Config, err
}

// plan is what the text of a configuration would change.
func (r *reloader) plan(ctx context.Context, text []byte) (api.Plan, error) {
	cfg, err := r.parse("the new configuration", text)
	if err != nil {
		return api.Plan{}, err
	}
	return r.control.Plan(ctx, cfg)
}
