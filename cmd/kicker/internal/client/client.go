// Package client asks a running controller over its HTTP API.
package client

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"syscall"
	"time"

	"kicker/controller/api"
)

// Client asks one controller. It is for one goroutine.
type Client struct {
	http  http.Client
	base  string // URL
	name  string // of the controller's address, for people
	token string

	// Now is the time of the last answer by the controller's clock: ages are right even if the clock here is not.
	Now time.Time
}

// Error is why there is no answer. It says what to do.
type Error struct {
	Status int // of HTTP: as answered, 0 without an answer, http.StatusGatewayTimeout without one in time
	text   string
}

func (e *Error) Error() string { return e.text }

// New makes a client of the controller at http://HOST:PORT, https://HOST:PORT or unix:///PATH.
func New(at, token string) *Client {
	c := &Client{base: strings.TrimSuffix(at, "/"), name: at, token: token}
	if socket, ok := strings.CutPrefix(at, "unix://"); ok {
		c.base = "http://kicker"
		c.http.Transport = &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
			return (&net.Dialer{}).DialContext(ctx, "unix", socket)
		}}
	}
	return c
}

// Get asks for path and decodes the answer into into. It also returns the answer as it came.
func (c *Client) Get(ctx context.Context, path string, query url.Values, into any) ([]byte, error) {
	return c.ask(ctx, http.MethodGet, strings.TrimSuffix(path+"?"+query.Encode(), "?"), nil, into)
}

// Post is Get with a body. One of bytes is sent as it is, any other as JSON.
func (c *Client) Post(ctx context.Context, path string, body, into any) ([]byte, error) {
	return c.ask(ctx, http.MethodPost, path, body, into)
}

func (c *Client) ask(ctx context.Context, method, path string, body, into any) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 15*time.Second)
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
		return nil, fmt.Errorf("the answer of %s to %s is not a controller's: %w", c.name, path, err)
	}
	return b, nil
}

// open gives the answer to a request that succeeded.
func (c *Client) open(ctx context.Context, method, path string, body any) (*http.Response, error) {
	content, isBytes := body.([]byte)
	if body != nil && !isBytes {
		content, _ = json.Marshal(body) // an order has only texts and numbers
	}
	r, err := http.NewRequestWithContext(ctx, method, c.base+path, bytes.NewReader(content))
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
	if c.Now, err = http.ParseTime(answer.Header.Get("Date")); err != nil {
		c.Now = time.Now()
	}
	if answer.StatusCode == http.StatusOK {
		return answer, nil
	}
	defer answer.Body.Close()
	return nil, c.rejected(answer)
}

func (c *Client) unreachable(err error) error {
	if wrapped, ok := errors.AsType[*url.Error](err); ok {
		err = wrapped.Err
	}
	status := 0
	switch {
	case errors.Is(err, context.Canceled):
		return errors.New("interrupted")
	case errors.Is(err, context.DeadlineExceeded):
		status, err = http.StatusGatewayTimeout, errors.New("no answer in time")
	case errors.Is(err, io.EOF):
		err = errors.New("it closed the connection")
	}
	if errno, ok := errors.AsType[syscall.Errno](err); ok {
		err = errno // without "dial tcp" and such
	}
	const remedy = "Is kicker controller running there? --api URL asks another one"
	return &Error{status, fmt.Sprintf("can't reach the controller at %s: %v. %s", c.name, err, remedy)}
}

// rejected is the error that an answer other than 200 is.
func (c *Client) rejected(r *http.Response) error {
	var e api.Error
	_ = json.NewDecoder(io.LimitReader(r.Body, 64<<10)).Decode(&e)
	if e.Error == "" {
		e.Error = fmt.Sprintf("ask the controller at %s: %s: is this kicker's API?", c.name, r.Status)
	}
	text := e.Error
	if e.Remedy != "" {
		text += ": " + e.Remedy
	}
	if len(e.Suggestions) > 0 {
		text += fmt.Sprintf(" (did you mean %s?)", strings.Join(e.Suggestions, " or "))
	}
	return &Error{r.StatusCode, text}
}

// Follow hands over the events after since, and then each new one, until take is done or ctx ends. Both are no errors.
func (c *Client) Follow(ctx context.Context, since int64, take func(api.Event) (done bool, err error)) (err error) {
	defer func() {
		if ctx.Err() != nil {
			err = nil
		}
	}()
	r, err := c.open(ctx, http.MethodGet, fmt.Sprintf("/v1/events?follow=1&since=%d", since), nil)
	if err != nil {
		return err
	}
	defer r.Body.Close()
	for events := json.NewDecoder(r.Body); ; {
		var e struct {
			api.Event
			api.Error
		}
		if err := events.Decode(&e); err != nil {
			return c.unreachable(err)
		}
		if e.Error.Error != "" {
			return fmt.Errorf("follow the events of %s: %s", c.name, e.Error.Error)
		}
		if done, err := take(e.Event); done || err != nil {
			return err
		}
	}
}
