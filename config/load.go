package config

import (
	"cmp"
	"errors"
	"fmt"
	"io/fs"
	"os"
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
	File    string                 // else KICKER_CONFIG, ./kicker.yaml or /etc/kicker/kicker.yaml; see Find
	Daemon  bool                   // skip ./kicker.yaml for root: a service must not depend on its working directory
	Listens bool                   // the command listens: reject listeners beyond loopback that no token protects
	Flags   map[string]*pflag.Flag // by the key that each sets if it is on the command line
}

// Load reads the settings. A flag wins over the environment, the environment over the file, the file over Default.
// If settings are wrong, the error is Problems and lists all of them.
func Load(o Options) (Config, error) {
	r, err := load(o)
	return r.config, err
}

func load(o Options) (r reader, err error) {
	if o.File, err = Find(o); err != nil {
		return r, err
	}
	var data []byte
	if o.File != "" {
		if data, err = os.ReadFile(o.File); err != nil {
			return r, fmt.Errorf("configuration: %w", err)
		}
	}
	return parse(data, o)
}

// Parse reads the settings as Load does, with data in place of the content of o.File.
func Parse(data []byte, o Options) (Config, error) {
	r, err := parse(data, o)
	return r.config, err
}

func parse(data []byte, o Options) (reader, error) {
	r := reader{options: o, config: Default(), lines: map[string]int{}, typed: map[string]string{}}
	inFile, err := r.readFile(data)
	if err != nil {
		return reader{}, r.unreadable(err)
	}
	v := viper.NewWithOptions(viper.KeyDelimiter("::")) // a dot inside a key must not make it two keys
	_ = v.MergeConfigMap(inFile)                        // never fails
	if err := r.override(v); err != nil {
		return reader{}, err
	}
	r.decode(v)
	r.checkAll()
	if len(r.problems) > 0 {
		slices.SortStableFunc(r.problems, func(a, b problem) int { return a.line - b.line })
		return reader{}, r.problems
	}
	r.config.complete()
	return r, nil
}

// override lets flags and environment variables replace settings of the file.
func (r *reader) override(v *viper.Viper) error {
	for key, f := range r.options.Flags {
		if !slices.ContainsFunc(settings, func(s setting) bool { return s.key == key }) {
			return fmt.Errorf("flag --%s sets the unknown key %s", f.Name, key) // the program's mistake
		}
	}
	for _, s := range settings {
		viperKey := strings.ReplaceAll(s.key, ".", "::")
		if f := r.options.Flags[s.key]; f != nil && f.Changed {
			r.typed[s.key] = "--" + f.Name
			_ = v.BindPFlag(viperKey, f) // fails only for a nil flag
		} else if os.Getenv(s.env) != "" {
			r.typed[s.key] = s.env
			_ = v.BindEnv(viperKey, s.env) // fails only without a key
		}
	}
	return nil
}

// decode takes over the settings that v has, and finds those that it cannot read.
func (r *reader) decode(v *viper.Viper) {
	var keys mapstructure.Metadata
	err := v.Unmarshal(&r.config, func(d *mapstructure.DecoderConfig) {
		d.DecodeHook = mapstructure.DecodeHookFuncValue(convert)
		d.Metadata = &keys // UnmarshalExact would hide the other errors behind its own
	})
	if len(keys.Unused) > 0 && len(r.problems) == 0 { // scan finds all but those that only an alias brings in
		r.unknown(slices.Min(keys.Unused))
	}
	for i := range r.config.Roles { // 0 is not the same as unset: it allows an empty list
		if _, set := r.lines[fmt.Sprintf("roles[%d].min_members", i)]; !set {
			r.config.Roles[i].MinMembers = membership.DefaultMinMembers
		}
	}
	r.notConverted(err)
}

// notConverted adds a problem for each single error in mapstructure's error.
func (r *reader) notConverted(err error) {
	switch e := err.(type) {
	case nil:
	case *mapstructure.DecodeError:
		r.wrong(e.Name(), "%v", e.Unwrap())
	case interface{ Unwrap() []error }:
		for _, err := range e.Unwrap() {
			r.notConverted(err)
		}
	default:
		r.notConverted(errors.Unwrap(err))
	}
}

// Find returns the file that Load reads, or an empty string: o.File, else KICKER_CONFIG, else the first that exists of
// ./kicker.yaml and /etc/kicker/kicker.yaml.
func Find(o Options) (string, error) { return find(o, os.Geteuid()) }

func find(o Options, uid int) (string, error) {
	if given := cmp.Or(o.File, os.Getenv("KICKER_CONFIG")); given != "" {
		return given, nil
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

// convert turns a value of a source into what a setting needs. It rejects values that mapstructure would convert
// silently, such as a number for text.
func convert(from, to reflect.Value) (any, error) {
	value, t := from.Interface(), to.Type()
	s, isText := value.(string)
	n, isInt := value.(int)
	switch {
	case t == durationType && isInt && n != 0:
		return nil, fmt.Errorf("%d has no unit: write %[1]ds or %[1]dms", n)
	case t == durationType && (isText || isInt):
		if d, err := time.ParseDuration(fmt.Sprint(value)); err == nil { // 0 needs no unit
			return d, nil
		}
		return nil, fmt.Errorf("%q is not a duration: write a number with its unit, such as 500ms, 10s or 5m", s)
	case t == reflect.TypeFor[membership.Budget]() && isInt:
		return strconv.Itoa(n), nil
	case t == reflect.TypeFor[[]string]() && isText:
		words, err := shellquote.Split(s)
		if err != nil {
			return nil, fmt.Errorf("%q ends inside quotes or after a backslash: complete it", s)
		}
		return words, nil
	case t == reflect.TypeFor[kick.Action]() && isText:
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
	got := describe(from.Type())
	switch {
	case t.Kind() == reflect.String:
		return nil, fmt.Errorf("want text, not %s: put it in quotes", got)
	case isText:
		got = strconv.Quote(s)
	}
	return nil, fmt.Errorf("want %s, not %s", describe(t), got)
}
