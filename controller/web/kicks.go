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

	"kicker/controller"
)

func (s *server) kick(w http.ResponseWriter, r *http.Request) {
	if !s.knownQuery(w, r) {
		return
	}
	order, err := decodeOrder(http.MaxBytesReader(w, r.Body, maxBody))
	if err != nil {
		code := http.StatusBadRequest
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			code = http.StatusRequestEntityTooLarge
		}
		s.fail(w, code, Error{Error: err.Error(), Remedy: `the body is like {"object": "node/N" or "role/R", "action": "A", "dry_run": false, "by": "who"}`})
		return
	}
	kicked, err := s.Kick(r.Context(), order)
	switch {
	case errors.Is(err, controller.ErrNotSynced):
		s.fail(w, http.StatusServiceUnavailable, notSynced(s.View().Sync.Why))
	case errors.Is(err, controller.ErrNotFound):
		s.fail(w, http.StatusNotFound, Error{Error: err.Error(), Near: nearObject(s.View(), order.Object)})
	case err != nil:
		s.Log.Error("a kick failed", "object", order.Object, "action", order.Action, "err", err)
		s.fail(w, http.StatusInternalServerError, Error{Error: err.Error()})
	default:
		s.Log.Info("a kick was asked for", "object", order.Object, "action", order.Action, "dry_run", order.DryRun, "by", order.By)
		s.awaitEvent(r.Context(), kicked.After)
		s.answer(w, kicked)
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

// decodeOrder reads one JSON object. A key that is misspelled must not kick more than was meant.
func decodeOrder(body io.Reader) (controller.KickOrder, error) {
	var o controller.KickOrder
	dec := json.NewDecoder(body)
	dec.DisallowUnknownFields()
	if err := dec.Decode(&o); err != nil {
		if wrong, ok := errors.AsType[*json.UnmarshalTypeError](err); ok {
			return o, fmt.Errorf("kick order: %s: want a %s, have a %s", wrong.Field, wrong.Type, wrong.Value)
		}
		if key, ok := strings.CutPrefix(err.Error(), "json: unknown field "); ok {
			return o, fmt.Errorf("kick order: unknown key %s", key)
		}
		return o, fmt.Errorf("kick order: %w", err)
	}
	if _, err := dec.Token(); err != io.EOF {
		if _, ok := errors.AsType[*http.MaxBytesError](err); ok {
			return o, fmt.Errorf("kick order: %w", err)
		}
		return o, errors.New("kick order: more than one JSON value")
	}
	if kind, name, _ := strings.Cut(o.Object, "/"); kind != "node" && kind != "role" || name == "" {
		return o, fmt.Errorf("kick order: object %.100q: want node/N or role/R", o.Object)
	}
	return o, nil
}

func nearObject(v *controller.View, object string) []string {
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
	return near(name, names)
}
