package main

import (
	"bufio"
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/spf13/cobra"

	"kicker/config"
	"kicker/controller/api"
)

const answerWithin = 15 * time.Second // of a controller that is asked a question

// client asks a controller over its HTTP API.
type client struct {
	http  *http.Client
	base  string // URL
	name  string // of the controller's address, for people
	token string
	now   time.Time // by the controller's clock, when it answered last
}

// clientFlags gives a command what newClient reads.
func clientFlags(cmd *cobra.Command) {
	cmd.Flags().String("api", "", "the controller's `URL`, or unix:///PATH (KICKER_API; default: its socket in state_dir, else api.url of the configuration)")
	cmd.Flags().String("token-file", "", "`file` with the controller's token (default: as configured)")
	bindFlag(cmd, "api", "api.url")
	bindFlag(cmd, "token-file", "token_file")
}

func newClient(cmd *cobra.Command) (*client, error) {
	api := cmd.Flags().Lookup("api")
	if env := os.Getenv("KICKER_API"); env != "" && !api.Changed {
		if err := cmd.Flags().Set("api", env); err != nil {
			return nil, fmt.Errorf("KICKER_API: %w", err)
		}
	}
	o := configOptions(cmd)
	cfg, err := config.Load(o)
	if problems := (config.Problems)(nil); errors.As(err, &problems) && o.File == "" {
		// Who asks what is wrong must not be stopped by what is wrong.
		fmt.Fprintf(cmd.ErrOrStderr(), "kicker: %v\nkicker: asking without this configuration\n", problems)
		o.File = os.DevNull
		cfg, err = config.Load(o)
	}
	if err != nil {
		return nil, err
	}
	c := &client{http: &http.Client{}, base: strings.TrimSuffix(cfg.API.URL, "/"), name: cfg.API.URL}
	socket, isSocket := strings.CutPrefix(cfg.API.URL, "unix://")
	if near := filepath.Join(cfg.StateDir, "api.sock"); !isSocket && impliedURL(cfg.API) && !api.Changed && answers(near) {
		socket, isSocket = near, true
	}
	if isSocket {
		c.base, c.name = "http://kicker", "unix://"+socket
		c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}}
		return c, nil
	}
	token, err := os.ReadFile(cfg.TokenPath())
	if err != nil && cfg.TokenFile != "" {
		return nil, fmt.Errorf("token_file: %w", err)
	}
	c.token = strings.TrimSpace(string(token)) // without one most of the API answers on loopback
	return c, nil
}

// impliedURL reports whether the URL only follows from where a controller on this machine would listen.
func impliedURL(api config.APIConfig) bool {
	u, err := url.Parse(api.URL)
	if err != nil {
		return false
	}
	_, port, err := net.SplitHostPort(api.Listen)
	ip := net.ParseIP(u.Hostname())
	return err == nil && u.Port() == port && ip != nil && ip.IsLoopback()
}

func answers(socket string) bool {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	conn.Close()
	return true
}

// get asks for path and decodes the answer into into. It returns the answer as it came, too, for -o json.
func (c *client) get(ctx context.Context, path string, query url.Values, into any) ([]byte, error) {
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return c.ask(ctx, http.MethodGet, path, nil, into)
}

func (c *client) ask(ctx context.Context, method, path string, body, into any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, answerWithin)
	defer cancel()
	r, err := c.open(ctx, method, path, body)
	if err != nil {
		return nil, err
	}
	defer r.Body.Close()
	b, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, c.unreachable(err)
	}
	if err := json.Unmarshal(b, into); err != nil {
		return nil, fmt.Errorf("ask %s for %s: the answer is not the controller's: %w", c.name, path, err)
	}
	return b, nil
}

// open gives the answer to a request that succeeded. Its body is a text, or is sent as JSON.
func (c *client) open(ctx context.Context, method, path string, body any) (*http.Response, error) {
	var content io.Reader
	if text, isText := body.([]byte); isText {
		content = bytes.NewReader(text)
	} else if body != nil {
		b, err := json.Marshal(body)
		if err != nil {
			return nil, err
		}
		content = bytes.NewReader(b)
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, content)
	if err != nil {
		return nil, err
	}
	if c.token != "" {
		r.Header.Set("Authorization", "Bearer "+c.token)
	}
	answer, err := c.http.Do(r)
	if err != nil {
		return nil, c.unreachable(err)
	}
	c.now = time.Now()
	if date, err := http.ParseTime(answer.Header.Get("Date")); err == nil {
		c.now = date // ages are right even if the clock here is not
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	return nil, c.refused(answer)
}

func (c *client) unreachable(err error) error {
	if wrapped := (*url.Error)(nil); errors.As(err, &wrapped) {
		err = wrapped.Err
	}
	code := exitUnreachable
	switch {
	case errors.Is(err, context.DeadlineExceeded):
		code, err = exitTimeout, errors.New("no answer in time")
	case errors.Is(err, context.Canceled):
		code = exitFailed
	}
	return exitError{code, fmt.Errorf("ask the controller at %s: %w: does it run there? (kicker controller; --api URL says where)", c.name, err)}
}

// refused is the error that an answer other than 200 is.
func (c *client) refused(r *http.Response) error {
	var e api.Error
	b, err := io.ReadAll(io.LimitReader(r.Body, 64<<10))
	if err == nil {
		err = json.Unmarshal(b, &e)
	}
	if err != nil || e.Error == "" {
		e.Error = fmt.Sprintf("ask the controller at %s: %s: is it kicker's API?", c.name, r.Status)
	}
	text := e.Error
	if e.Remedy != "" {
		text += ": " + e.Remedy
	}
	if len(e.Suggestions) > 0 {
		text += fmt.Sprintf(" (did you mean %s?)", strings.Join(e.Suggestions, " or "))
	}
	code := exitFailed
	switch r.StatusCode {
	case http.StatusBadRequest:
		code = exitUsage
	case http.StatusServiceUnavailable, http.StatusUnauthorized:
		code = exitUnreachable
	}
	return exitError{code, errors.New(text)}
}

// follow hands over the events after since, the coming ones too, until take says done or ctx ends, which is no error.
func (c *client) follow(ctx context.Context, since int64, take func(line []byte, e api.Event) (done bool, err error)) error {
	r, err := c.open(ctx, http.MethodGet, fmt.Sprintf("/v1/events?follow=1&since=%d", since), nil)
	if err != nil {
		return ended(ctx, err)
	}
	defer r.Body.Close()
	lines := bufio.NewScanner(r.Body)
	lines.Buffer(nil, 1<<20)
	for lines.Scan() {
		if len(lines.Bytes()) == 0 {
			continue // only to show that the stream lives
		}
		var e struct {
			api.Event
			api.Error
		}
		if err := json.Unmarshal(lines.Bytes(), &e); err != nil {
			return fmt.Errorf("follow the events of %s: %w", c.name, err)
		}
		if e.Error.Error != "" {
			return fmt.Errorf("follow the events of %s: %s", c.name, e.Error.Error)
		}
		if done, err := take(lines.Bytes(), e.Event); done || err != nil {
			return err
		}
	}
	return ended(ctx, c.unreachable(cmp.Or(lines.Err(), errors.New("it ended the stream"))))
}

func ended(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// object reads node/N or role/R.
func object(arg string, kinds ...string) (kind, name string, err error) {
	kind, name, _ = strings.Cut(arg, "/")
	want := make([]string, len(kinds))
	for i, k := range kinds {
		want[i] = k + "/" + name
		if kind == k && name != "" {
			return kind, name, nil
		}
		if name == "" {
			want[i] = k + "/" + cmp.Or(kind, "NAME")
		}
	}
	return "", "", usageError("%q: write %s", arg, strings.Join(want, " or "))
}
