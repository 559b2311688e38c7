package web

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"

	"kicker/controller/api"
)

func (s *server) kick(w http.ResponseWriter, r *http.Request) {
	if !s.knownQuery(w, r) {
		return
	}
	order, err := decodeOrder(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		s.refuse(w, err, `the body is like {"object": "node/N" or "role/R", "action": "A", "dry_run": false, "by": "who"}`)
		return
	}
	if !s.leads(w) {
		return
	}
	kicked, err := s.Kick(r.Context(), order)
	if err != nil {
		s.failed(w, order.Object, err)
		return
	}
	s.Log.Info("a kick was asked for", "object", order.Object, "action", order.Action, "dry_run", order.DryRun, "by", order.By)
	s.awaitEvent(r.Context(), kicked.After)
	s.answer(w, kicked)
}

func (s *server) lose(w http.ResponseWriter, r *http.Request) {
	if !s.knownQuery(w, r) {
		return
	}
	order, err := decodeLoss(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		s.refuse(w, err, `the body is like {"object": "role/R", "by": "who"}, or with "expect_percent": 50, "for_ns": 900000000000 too`)
		return
	}
	if !s.leads(w) {
		return
	}
	if err := s.Lose(r.Context(), order); err != nil {
		s.failed(w, order.Object, err)
		return
	}
	s.Log.Info("a loss was declared", "object", order.Object, "expect_percent", order.Expect, "for", order.For, "by", order.By)
	s.answer(w, struct{}{})
}

// leads refuses what only the controller that leads can do.
func (s *server) leads(w http.ResponseWriter) bool {
	leader := s.View().Leader
	if leader != "" {
		s.fail(w, http.StatusServiceUnavailable, standbyOf(leader))
	}
	return leader == ""
}

func standbyOf(leader string) api.Error {
	return api.Error{
		Error:  "this controller is a standby: controller " + leader + " leads",
		Remedy: "ask that one (kicker --api URL)",
	}
}

// refuse answers a body that could not be read.
func (s *server) refuse(w http.ResponseWriter, err error, remedy string) {
	code := http.StatusBadRequest
	if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
		code = http.StatusRequestEntityTooLarge
	}
	s.fail(w, code, api.Error{Error: err.Error(), Remedy: remedy})
}

// failed answers an order that the controller did not carry out.
func (s *server) failed(w http.ResponseWriter, object string, err error) {
	switch {
	case errors.Is(err, api.ErrNotSynced):
		s.fail(w, http.StatusServiceUnavailable, notSynced(s.View().Sync.Why))
	case errors.Is(err, api.ErrNotFound):
		s.fail(w, http.StatusNotFound, api.Error{Error: err.Error(), Suggestions: nearObject(s.View(), object)})
	default:
		s.Log.Error("an order failed", "object", object, "err", err)
		s.fail(w, http.StatusInternalServerError, api.Error{Error: err.Error()})
	}
}

// awaitEvent waits until the event of that number is shown, so that whoever is told of it can follow from there.
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

func decodeOrder(body io.Reader) (api.KickOrder, error) {
	o, err := decode[api.KickOrder]("kick order", body)
	if kind, name, _ := strings.Cut(o.Object, "/"); err == nil && (kind != "node" && kind != "role" || name == "") {
		return o, fmt.Errorf("kick order: object %.100q: want node/N or role/R", o.Object)
	}
	return o, err
}

func decodeLoss(body io.Reader) (api.LossOrder, error) {
	o, err := decode[api.LossOrder]("loss order", body)
	name, isRole := strings.CutPrefix(o.Object, "role/")
	switch {
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

// decode reads one JSON object. A key that is misspelled must not do more than was meant.
func decode[Order any](what string, body io.Reader) (Order, error) {
	var o Order
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return o, fmt.Errorf("%s: %s: want a %s, have a %s", what, wrong.Field, wrong.Type, wrong.Value)
		}
		if key, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return o, fmt.Errorf("%s: unknown key %s", what, key)
		}
		return o, fmt.Errorf("%s: %w", what, err)
	}
	if _, err := dec.Token(); err != io.EOF {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return o, fmt.Errorf("%s: %w", what, err)
		}
		return o, fmt.Errorf("%s: more than one JSON value", what)
	}
	return o, nil
}

func nearObject(v *api.View, object string) []string {
	kind, name, _ := strings.Cut(object, "/")
	var names []string
	if kind == "node" {
		for n := range v.Nodes.All() {
			names = append(names, n.Name)
		}
	} else {
		for _, r := range v.Roles {
			names = append(names, r.Name)
		}
	}
	if slices.Contains(names, name) {
		return nil // it is the action that is not found
	}
	return api.Suggest(name, names)
}
