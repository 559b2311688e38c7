package config

import (
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"

	"github.com/go-viper/mapstructure/v2"
	"github.com/kballard/go-shellquote"
	"github.com/spf13/pflag"
	"github.com/spf13/viper"

	"kicker/controller/membership"
	"kicker/kick"
)

// Options says where Load looks for settings, and for which kind of command.
type Options struct {
	// File must exist if it is set. Otherwise Load uses KICKER_CONFIG, or the first that exists of ./kicker.yaml and
	// /etc/kicker/kicker.yaml.
	File string
	// Daemon skips ./kicker.yaml for root: a service must not depend on its working directory.
	Daemon bool
	// Listens rejects listeners beyond loopback that no token protects, for a command that opens listeners.
	Listens bool
	// Flags maps a key to the flag that sets it, if the flag is on the command line.
	Flags map[string]*pflag.Flag
}

// Load reads the settings. A flag wins over the environment, the environment over the file, the file over Default.
// If settings are wrong, the error is Problems and lists all of them.
func Load(o Options) (Config, error) {
	c, _, err := load(o)
	return c, err
}

func load(o Options) (c Config, src *sources, err error) {
	if o.File, err = Find(o); err != nil {
		return c, nil, err
	}
	var data []byte
	if o.File != "" {
		if data, err = os.ReadFile(o.File); err != nil {
			return c, nil, fmt.Errorf("configuration: %w", err)
		}
	}
	return parse(data, o)
}

// Parse reads the settings as Load does, with data in place of the content of o.File.
func Parse(data []byte, o Options) (Config, error) {
	c, _, err := parse(data, o)
	return c, err
}

func parse(data []byte, o Options) (Config, *sources, error) {
	src := &sources{file: o.File, flags: map[string]string{}, env: map[string]string{}}
	settings, problems := src.readFile(data)
	if settings == nil && len(problems) > 0 {
		return Config{}, nil, problems
	}
	v := viper.NewWithOptions(viper.KeyDelimiter("::")) // a dot inside a key must not make it two keys
	if err := v.MergeConfigMap(settings); err != nil {
		return Config{}, nil, fmt.Errorf("configuration: %w", err)
	}
	if err := src.override(v, o.Flags); err != nil {
		return Config{}, nil, err
	}
	c := Default()
	problems = append(problems, src.decode(v, &c)...)
	src.makeAbsolute("state_dir", &c.StateDir)
	src.makeAbsolute("token_file", &c.TokenFile)
	c.complete()
	for _, p := range src.check(c, o.Listens) {
		if !problems.cover(p) {
			problems = append(problems, p)
		}
	}
	if len(problems) > 0 {
		slices.SortStableFunc(problems, func(a, b problem) int { return a.line - b.line })
		return Config{}, nil, problems
	}
	return c, src, nil
}

// override lets flags and environment variables replace settings of the file.
func (src *sources) override(v *viper.Viper, flags map[string]*pflag.Flag) error {
	unbound := maps.Clone(flags)
	walk("", configType, func(key string, t reflect.Type) {
		delete(unbound, key)
		viperKey := strings.ReplaceAll(key, ".", "::")
		if f := flags[key]; f != nil && f.Changed {
			src.flags[key] = f.Name
			_ = v.BindPFlag(viperKey, f) // fails only for a nil flag
		} else if name := envName(key, t); name != "" && os.Getenv(name) != "" {
			src.env[key] = name
			_ = v.BindEnv(viperKey, name) // fails only without a key
		}
	})
	for key, f := range unbound { // a mistake in the program, not the user's
		return fmt.Errorf("flag --%s sets the unknown key %s", f.Name, key)
	}
	return nil
}

// decode fills c with the settings that v has, and returns what it could not read.
func (src *sources) decode(v *viper.Viper, c *Config) (problems Problems) {
	var keys mapstructure.Metadata
	hook := viper.DecodeHook(mapstructure.DecodeHookFuncValue(convert))
	err := v.Unmarshal(c, hook, func(d *mapstructure.DecoderConfig) {
		d.Metadata = &keys // UnmarshalExact would hide the other errors behind its own
	})
	for _, e := range decodeErrors(err) {
		problems = append(problems, src.problem(e.Name(), "%v", errors.Unwrap(e)))
	}
	for _, path := range keys.Unused {
		if _, scanned := src.lines[path]; !scanned { // an unknown key that only an alias brings in
			problems = append(problems, src.unknown(path))
		}
	}
	return problems
}

// makeAbsolute resolves a path in a flag or variable against the working directory. The checks reject a relative path
// in the file.
func (src *sources) makeAbsolute(key string, path *string) {
	if _, line := src.of(key); *path == "" || line > 0 {
		return
	}
	if abs, err := filepath.Abs(*path); err == nil {
		*path = abs
	}
}

// Find returns the configuration file that Load reads, or an empty string if there is none.
func Find(o Options) (string, error) { return find(o, os.Geteuid()) }

func find(o Options, uid int) (string, error) {
	for _, given := range []string{o.File, os.Getenv("KICKER_CONFIG")} {
		if given != "" {
			return given, nil
		}
	}
	paths := []string{"kicker.yaml", "/etc/kicker/kicker.yaml"}
	if o.Daemon && uid == 0 {
		paths = paths[1:]
	}
	for _, path := range paths {
		info, err := os.Stat(path)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return "", fmt.Errorf("configuration: %w", err)
		}
		// A file that another user left in /tmp could send the token to that user.
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != uint32(uid) && owner != 0 {
			return "", fmt.Errorf("configuration: %s belongs to another user (uid %d): "+
				"if you trust it, use --config %[1]s", path, owner)
		}
		return path, nil
	}
	return "", nil
}

var (
	actionType = reflect.TypeFor[kick.Action]()
	budgetType = reflect.TypeFor[membership.Budget]()
	wordsType  = reflect.TypeFor[[]string]()
)

// convert turns a value of a source into what a setting needs. It rejects values that mapstructure would convert
// silently, such as a number for text.
func convert(from, to reflect.Value) (any, error) {
	value, t := from.Interface(), to.Type()
	s, isText := value.(string)
	switch {
	case t == durationType:
		return convertDuration(value)
	case t == budgetType && from.Kind() == reflect.Int:
		return strconv.FormatInt(from.Int(), 10), nil
	case t == wordsType && isText:
		words, err := shellquote.Split(s)
		if err != nil {
			return nil, fmt.Errorf("%q ends inside quotes or after a backslash: complete it", s)
		}
		return words, nil
	case t == actionType && isText:
		return kick.ParseAction(s)
	case t.Kind() == reflect.Bool && isText:
		if b, err := strconv.ParseBool(s); err == nil {
			return b, nil
		}
	case t.Kind() == reflect.Int && isText:
		if n, err := strconv.Atoi(s); err == nil {
			return n, nil
		}
	case from.Kind() == t.Kind(), t.Kind() == reflect.Struct && from.Kind() == reflect.Map:
		return value, nil
	}
	if t.Kind() == reflect.String {
		return nil, fmt.Errorf("want text, not %s: put it in quotes", describe(from.Type()))
	}
	if isText {
		return nil, fmt.Errorf("want %s, not %q", describe(t), s)
	}
	return nil, fmt.Errorf("want %s, not %s", describe(t), describe(from.Type()))
}

func convertDuration(value any) (any, error) {
	switch v := value.(type) {
	case time.Duration:
		return v, nil
	case string:
		if d, err := time.ParseDuration(v); err == nil {
			return d, nil
		}
		return nil, fmt.Errorf("%q is not a duration: write a number with its unit, such as 500ms, 10s or 5m", v)
	case int:
		if v == 0 {
			return time.Duration(0), nil
		}
		return nil, fmt.Errorf("%d has no unit: write %ds or %dms", v, v, v)
	}
	return nil, fmt.Errorf("want %s, not %s", describe(durationType), describe(reflect.TypeOf(value)))
}

// decodeErrors returns the single errors in mapstructure's error, each with the name of its field.
func decodeErrors(err error) []*mapstructure.DecodeError {
	switch e := err.(type) {
	case nil:
		return nil
	case *mapstructure.DecodeError:
		return []*mapstructure.DecodeError{e}
	case interface{ Unwrap() []error }:
		var all []*mapstructure.DecodeError
		for _, err := range e.Unwrap() {
			all = append(all, decodeErrors(err)...)
		}
		return all
	}
	return decodeErrors(errors.Unwrap(err))
}
