package main

import (
	"cmp"
	"errors"
	"fmt"
	"io"
	"net"
	"net/url"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kicker/cmd/kicker/internal/client"
	"kicker/config"
)

// asks gives a command the flags of newClient, and with formats -o. The first format is the default.
func asks(cmd *cobra.Command, formats ...string) *cobra.Command {
	cmd.Flags().String("api", "", "`URL` of the controller, or unix:///PATH "+
		"(KICKER_API; default: its socket in state_dir, else api.url of the configuration)")
	cmd.Flags().String("token-file", "", "`file` with the controller's token (default: as configured)")
	bindFlags(cmd, map[string]string{"api": "api.url", "token-file": "token_file"})
	if len(formats) == 0 {
		return cmd
	}
	all, args := strings.Join(formats, ", "), cmd.Args
	cmd.Flags().StringP("output", "o", formats[0], "print in this `format`: "+all)
	cmd.Args = func(cmd *cobra.Command, given []string) error {
		if got := output(cmd); !slices.Contains(formats, got) {
			return usageError("-o %s: choose one of %s", got, all)
		}
		return args(cmd, given)
	}
	complete := cobra.FixedCompletions(formats, cobra.ShellCompDirectiveNoFileComp)
	_ = cmd.RegisterFlagCompletionFunc("output", complete) // the flag exists
	return cmd
}

func output(cmd *cobra.Command) string { return cmd.Flag("output").Value.String() }

// get asks the controller for path and prints the answer, which it also returns.
func get[T any](cmd *cobra.Command, path string, query url.Values, text func(T, time.Time) string) (got T, err error) {
	c, err := newClient(cmd)
	if err != nil {
		return got, err
	}
	raw, err := c.Get(cmd.Context(), path, query, &got)
	if err != nil {
		return got, err
	}
	return got, show(cmd, raw, text(got, c.Now))
}

// show prints an answer: with -o json as it came, else as text.
func show(cmd *cobra.Command, raw []byte, text string) error {
	if output(cmd) == "json" {
		text = string(raw)
	}
	_, err := io.WriteString(cmd.OutOrStdout(), text)
	return err
}

// newClient is a client of the controller that the flags, the environment or the configuration name.
func newClient(cmd *cobra.Command) (*client.Client, error) {
	api := cmd.Flags().Lookup("api")
	if env := os.Getenv("KICKER_API"); env != "" && !api.Changed {
		_ = cmd.Flags().Set("api", env) // any text will do
	}
	o := configOptions(cmd)
	cfg, err := config.Load(o)
	if problems, ok := errors.AsType[config.Problems](err); ok && o.File == "" {
		// A wrong configuration must not stop a person who asks what is wrong.
		fmt.Fprintf(cmd.ErrOrStderr(), "kicker: %v\nkicker: asking without this configuration\n", problems)
		o.File = os.DevNull
		cfg, err = config.Load(o)
	}
	if err != nil {
		return nil, err
	}
	if socket := filepath.Join(cfg.StateDir, "api.sock"); !api.Changed && isNear(cfg.API, socket) {
		cfg.API.URL = "unix://" + socket
	}
	if strings.HasPrefix(cfg.API.URL, "unix://") {
		return client.New(cfg.API.URL, ""), nil
	}
	token, err := os.ReadFile(cfg.TokenPath())
	if err != nil && cfg.TokenFile != "" {
		return nil, fmt.Errorf("token_file: %w", err)
	}
	return client.New(cfg.API.URL, strings.TrimSpace(string(token))), nil // on loopback most questions need no token
}

// isNear reports whether a controller answers at socket, and the URL only follows from where one here would listen.
func isNear(api config.APIConfig, socket string) bool {
	u, err := url.Parse(api.URL)
	_, port, _ := net.SplitHostPort(api.Listen) // checked before
	if err != nil || u.Port() != port || !net.ParseIP(u.Hostname()).IsLoopback() {
		return false
	}
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err == nil {
		conn.Close()
	}
	return err == nil
}

// object reads an argument such as node/N or role/R.
func object(arg string, kinds ...string) (kind, name string, err error) {
	kind, name, _ = strings.Cut(arg, "/")
	if name != "" && slices.Contains(kinds, kind) {
		return kind, name, nil
	}
	var want []string
	for _, k := range kinds {
		want = append(want, k+"/"+cmp.Or(name, kind, "NAME"))
	}
	return "", "", usageError("%q: write %s", arg, strings.Join(want, " or "))
}

// caller is the person who gives an order, for the controller's events.
func caller() string {
	name := fmt.Sprintf("uid %d", os.Getuid())
	if u, err := user.Current(); err == nil {
		name = u.Username
	}
	host, _ := os.Hostname() // Linux always has one
	return name + "@" + host
}
