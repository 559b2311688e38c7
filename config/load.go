package config

import (
	"bytes"
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

	"kicker/controller"
	"kicker/kick"
)

// Options say where Load looks, and for whom.
type Options struct {
	// File must be there if it is given. Else it is KICKER_CONFIG, or the first that is there of ./kicker.yaml and
	// /etc/kicker/kicker.yaml.
	File string
	// Daemon leaves ./kicker.yaml out if root asks: a service must not depend on where it was started.
	Daemon bool
	// Listens refuses listeners that anyone could reach: for whoever is going to open them.
	Listens bool
	// Flags set a key if they were given on the command line.
	Flags map[string]*pflag.Flag
}

// Load reads the settings: flags before the environment, before the file, before Default. If some of them are wrong the
// error is Problems, which names them all.
func Load(o Options) (Config, error) {
	c, _, err := load(o)
	return c, err
}

func load(o Options) (Config, *sources, error) {
	path, err := Find(o)
	if err != nil {
		return Config{}, nil, err
	}
	src := &sources{file: path, flags: map[string]string{}, env: map[string]string{}}
	c, err := src.read(o)
	return c, src, err
}

func (src *sources) read(o Options) (Config, error) {
	if src.file == "" {
		return src.parse(nil, o)
	}
	data, err := os.ReadFile(src.file)
	if err != nil {
		return Config{}, fmt.Errorf("configuration: %w", err)
	}
	return src.parse(data, o)
}

// parse reads the settings from everywhere, data being what is in the file.
func (src *sources) parse(data []byte, o Options) (Config, error) {
	problems, readable := src.scan(data)
	if !readable {
		return Config{}, problems
	}
	v := viper.NewWithOptions(viper.KeyDelimiter("::")) // else a key with a dot in it would be taken for two
	v.SetConfigType("yaml")
	if err := v.ReadConfig(bytes.NewReader(data)); err != nil {
		return Config{}, Problems{src.syntax(err)}
	}
	unbound := maps.Clone(o.Flags)
	walk(configType, func(key string, t reflect.Type) {
		delete(unbound, key)
		viperKey := strings.ReplaceAll(key, ".", "::")
		if f := o.Flags[key]; f != nil && f.Changed {
			src.flags[key] = f.Name
			_ = v.BindPFlag(viperKey, f) // fails for a nil flag only
		} else if name := envName(key, t); name != "" && os.Getenv(name) != "" {
			src.env[key] = name
			_ = v.BindEnv(viperKey, name) // fails without a key only
		}
	})

	for key, f := range unbound { // whoever made the flag hears of it before a user does
		return Config{}, fmt.Errorf("flag --%s: there is no key %s", f.Name, key)
	}

	c := Default()
	var unused mapstructure.Metadata
	err := v.Unmarshal(&c, viper.DecodeHook(mapstructure.DecodeHookFuncValue(decode)), func(d *mapstructure.DecoderConfig) {
		d.Metadata = &unused // and not UnmarshalExact, whose error hides what else is wrong
	})
	for _, e := range leaves(err) {
		problems = append(problems, src.problem(e.Name(), "%v", errors.Unwrap(e)))
	}
	for _, path := range unused.Unused { // scan has named them with their place, but for those that an alias brings in
		if _, scanned := src.lines[path]; !scanned {
			problems = append(problems, src.unknown(path))
		}
	}
	src.absolute("state_dir", &c.StateDir)
	src.absolute("token_file", &c.TokenFile)
	c.complete()
	for _, p := range src.check(c, o.Listens) {
		if !problems.unread(p) {
			problems = append(problems, p)
		}
	}
	if len(problems) > 0 {
		slices.SortStableFunc(problems, func(a, b Problem) int { return a.line - b.line })
		return Config{}, problems
	}
	return c, nil
}

// absolute makes a path that was typed be the one that was meant. In a file, relative to what?
func (src *sources) absolute(key string, path *string) {
	if _, line := src.of(key); *path == "" || line > 0 {
		return
	}
	if abs, err := filepath.Abs(*path); err == nil {
		*path = abs
	}
}

// Find is the configuration file that Load would read, or empty if there is none.
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
		// One that somebody left in /tmp could send the token to them.
		if owner := info.Sys().(*syscall.Stat_t).Uid; owner != uint32(uid) && owner != 0 {
			return "", fmt.Errorf("configuration: %s belongs to somebody else (uid %d): if you mean it say --config %s", path, owner, path)
		}
		return path, nil
	}
	return "", nil
}

var (
	actionType = reflect.TypeFor[kick.Action]()
	budgetType = reflect.TypeFor[controller.Budget]()
	wordsType  = reflect.TypeFor[[]string]()
)

// decode turns what the sources have into what the settings are, and refuses what mapstructure would bend into shape.
func decode(from, to reflect.Value) (any, error) {
	value, t := from.Interface(), to.Type()
	s, isText := value.(string)
	switch {
	case t == durationType:
		return decodeDuration(value)
	case t == budgetType && from.Kind() == reflect.Int:
		return strconv.FormatInt(from.Int(), 10), nil
	case t == wordsType && isText:
		return shellquote.Split(s)
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
		return nil, fmt.Errorf("want a text, not %s: put it in quotes", describe(from.Type()))
	}
	if isText {
		return nil, fmt.Errorf("want %s, not %q", describe(t), s)
	}
	return nil, fmt.Errorf("want %s, not %s", describe(t), describe(from.Type()))
}

func decodeDuration(value any) (any, error) {
	switch v := value.(type) {
	case time.Duration:
		return v, nil
	case string:
		if d, err := time.ParseDuration(v); err == nil {
			return d, nil
		}
		return nil, fmt.Errorf("%q is no duration: write it with its unit, such as 500ms, 10s or 5m", v)
	case int:
		if v == 0 {
			return time.Duration(0), nil
		}
		return nil, fmt.Errorf("%d has no unit: write %ds, or %dms", v, v, v)
	}
	return nil, fmt.Errorf("want %s, not %s", describe(durationType), describe(reflect.TypeOf(value)))
}

// leaves are the single errors, each with the name of its field, in what mapstructure says.
func leaves(err error) []*mapstructure.DecodeError {
	switch e := err.(type) {
	case nil:
		return nil
	case *mapstructure.DecodeError:
		return []*mapstructure.DecodeError{e}
	case interface{ Unwrap() []error }:
		var all []*mapstructure.DecodeError
		for _, err := range e.Unwrap() {
			all = append(all, leaves(err)...)
		}
		return all
	}
	return leaves(errors.Unwrap(err))
}
