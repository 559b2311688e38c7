package web

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"reflect"
	"slices"
	"strings"

	"kicker/controller/api"
)

func (s *server) kick(w http.ResponseWriter, r *http.Request) {
	const form = `{"object": "node/N" or "role/R", "action": "A", "dry_run": false, "by": "who"}`
	order, ok := readOrder(s, w, r, decodeKick, form)
	if !ok || !s.leads(w) {
		return
	}
	kicked, err := s.Kick(r.Context(), order)
	if err != nil {
		s.failOrder(w, order.Object, err)
		return
	}
	s.Log.Info("kick ordered", "object", order.Object, "action", order.Action, "dry_run", order.DryRun, "by", order.By)
	s.awaitEvent(r.Context(), kicked.After)
	s.answer(w, kicked)
}

func (s *server) lose(w http.ResponseWriter, r *http.Request) {
	const form = `{"object": "role/R", "by": "who"}, or with "expect_percent": 50, "for_ns": 900000000000 too`
	order, ok := readOrder(s, w, r, decodeLoss, form)
	if !ok || !s.leads(w) {
		return
	}
	if err := s.Lose(r.Context(), order); err != nil {
		s.failOrder(w, order.Object, err)
		return
	}
	s.Log.Info("loss declared",
		"object", order.Object, "expect_percent", order.Expect, "for", order.For, "by", order.By)
	s.answer(w, struct{}{})
}

// leads answers that only the controller that leads can do this, unless this one does.
func (s *server) leads(w http.ResponseWriter) bool {
	leader := s.View().Leader
	if leader != "" {
		s.fail(w, http.StatusServiceUnavailable, api.Error{
			Error:  "this controller is a standby: controller " + leader + " leads",
			Remedy: "ask that one (kicker --api URL)",
		})
	}
	return leader == ""
}

// failOrder answers that the controller did not carry out an order.
func (s *server) failOrder(w http.ResponseWriter, object string, err error) {
	v := s.View()
	switch {
	case errors.Is(err, api.ErrNotSynced):
		s.fail(w, http.StatusServiceUnavailable, notSynced("the nodes", v.Sync, v.At))
	case errors.Is(err, api.ErrNotFound):
		s.fail(w, http.StatusNotFound, api.Error{Error: err.Error(), Suggestions: similar(v, object)})
	default:
		s.Log.Error("order failed", "object", object, "err", err)
		s.fail(w, http.StatusInternalServerError, api.Error{Error: err.Error()})
	}
}

// similar is the objects' names that an object which is not found is similar to.
func similar(v *api.View, object string) []string {
	kind, name, _ := strings.Cut(object, "/")
	names := roleNames(v)
	if kind == "node" {
		names = nodeNames(v)
	}
	if slices.Contains(names, name) {
		return nil // the action is not found
	}
	return api.Suggest(name, names)
}

// awaitEvent waits until the view has the event with that number, so that a client can follow from there.
func (s *server) awaitEvent(ctx context.Context, seq int64) {
	for {
		v := s.View()
		if newestEvent(v) >= seq {
			return
		}
		select {
		case <-v.Next:
		case <-ctx.Done():
			return
		}
	}
}

// readBody reads a request's body, or answers why it cannot.
func (s *server) readBody(w http.ResponseWriter, r *http.Request, most int64) ([]byte, bool) {
	if !s.knownQuery(w, r) {
		return nil, false
	}
	body, err := io.ReadAll(http.MaxBytesReader(w, r.Body, most))
	if _, tooLarge := errors.AsType[*http.MaxBytesError](err); tooLarge {
		s.fail(w, http.StatusRequestEntityTooLarge, api.Error{
			Error: fmt.Sprintf("%s: the body is too large: send at most %d KiB", r.URL.Path, most>>10),
		})
	} else if err != nil {
		s.badRequest(w, err, "")
	}
	return body, err == nil
}

// readOrder reads the order in a request's body, or answers why it cannot.
func readOrder[Order any](s *server, w http.ResponseWriter, r *http.Request, decode func([]byte) (Order, error),
	form string) (o Order, ok bool) {
	body, ok := s.readBody(w, r, maxBody)
	if !ok {
		return o, false
	}
	o, err := decode(body)
	if err != nil {
		s.badRequest(w, err, "the body is like "+form)
	}
	return o, err == nil
}

func decodeKick(body []byte) (api.KickOrder, error) {
	o, err := decode[api.KickOrder]("kick order", body)
	if kind, name, _ := strings.Cut(o.Object, "/"); err == nil && (kind != "node" && kind != "role" || name == "") {
		return o, fmt.Errorf("kick order: object %.100q: want node/N or role/R", o.Object)
	}
	return o, err
}

func decodeLoss(body []byte) (api.LossOrder, error) {
	o, err := decode[api.LossOrder]("loss order", body)
	switch name, isRole := strings.CutPrefix(o.Object, "role/"); {
	case err != nil:
		return o, err
	case !isRole || name == "":
		return o, fmt.Errorf("loss order: object %.100q: want role/R", o.Object)
	case o.Expect < 0 || o.Expect > 100:
		return o, fmt.Errorf("loss order: expect_percent %d: want 1 to 100", o.Expect)
	case o.For < 0 || (o.Expect > 0) != (o.For > 0):
		return o, errors.New("loss order: expect_percent and for_ns go together: so many percent in that time")
	}
	return o, nil
}

// decode reads one JSON object. It rejects unknown keys: a misspelled order must not do more than was meant.
func decode[Order any](what string, body []byte) (Order, error) {
	var o Order
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			if wrong.Type.Kind() == reflect.Struct {
				return o, fmt.Errorf("%s: want an object, have %s", what, wrong.Value)
			}
			return o, fmt.Errorf("%s: %s: want %s, have %s", what, wrong.Field, wrong.Type.Kind(), wrong.Value)
		}
		if key, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return o, fmt.Errorf("%s: unknown key %s", what, key)
		}
		if errors.Is(err, io.EOF) {
			return o, fmt.Errorf("%s: the body is empty", what)
		}
		return o, fmt.Errorf("%s: not JSON: %w", what, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		return o, fmt.Errorf("%s: more than one JSON value", what)
	}
	return o, nil
}
