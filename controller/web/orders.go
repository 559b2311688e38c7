package web

import (
	"bytes"
	"cmp"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"slices"
	"strings"
	"unicode"
	"unicode/utf8"

	"kicker/controller/api"
)

func (s *server) kick(_ *api.View, r *http.Request) (any, error) {
	order, err := readOrder(r, "kick order", decodeKick,
		`{"object": "node/N" or "role/R", "action": "A", "dry_run": false, "by": "who"}`)
	if err != nil {
		return nil, err
	}
	kicked, err := s.Kick(r.Context(), order)
	if err != nil {
		return nil, s.orderFailed(order.Object, err)
	}
	s.Log.Info("kick ordered", "object", order.Object, "action", order.Action, "dry_run", order.DryRun, "by", order.By)
	s.awaitEvent(r.Context(), kicked.After)
	return kicked, nil
}

func (s *server) lose(_ *api.View, r *http.Request) (any, error) {
	order, err := readOrder(r, "loss order", decodeLoss,
		`{"object": "role/R", "accept": 3, "by": "who"}, or "expect_percent": 50, "for_ns": 900000000000 in place of accept`)
	if err != nil {
		return nil, err
	}
	if err := s.Lose(r.Context(), order); err != nil {
		return nil, s.orderFailed(order.Object, err)
	}
	s.Log.Info("loss declared", "object", order.Object, "expect_percent", order.Expect, "for", order.For, "by", order.By)
	return struct{}{}, nil
}

func (s *server) leave(_ *api.View, r *http.Request) (any, error) {
	order, err := readOrder(r, "leave order", decodeLeave, `{"object": "node/N", "last": false, "by": "who"}`)
	if err != nil {
		return nil, err
	}
	answer, err := s.Leave(r.Context(), order)
	if err != nil {
		return nil, s.orderFailed(order.Object, err)
	}
	s.Log.Info("leave ordered", "object", order.Object, "last", order.Last, "by", order.By)
	return answer, nil
}

func (s *server) leaving(_ *api.View, r *http.Request) (any, error) {
	answer, err := s.Leaving(r.Context(), r.PathValue("node"))
	if err != nil {
		return nil, s.orderFailed("node/"+r.PathValue("node"), err)
	}
	return answer, nil
}

// plan says what another configuration would change. It changes nothing, so it asks for no more rights than a question.
func (s *server) plan(_ *api.View, r *http.Request) (any, error) {
	text, err := io.ReadAll(r.Body)
	if err != nil {
		return nil, err
	}
	p, err := s.Plan(r.Context(), text)
	if errors.Is(err, api.ErrNotSynced) {
		err = s.orderFailed("", err)
	} else if err != nil {
		const remedy = "the controller would reject this file: `kicker config validate` checks it"
		err = fail(http.StatusBadRequest, remedy, "%v", err)
	}
	for _, r := range p.Roles {
		for _, role := range []*api.Role{r.Now, r.Then} {
			if role != nil {
				*role = withLists(*role)
			}
		}
	}
	return p, err
}

// orderFailed is the answer if the controller did not carry out an order.
func (s *server) orderFailed(object string, err error) error {
	v := s.View()
	switch {
	case errors.Is(err, api.ErrNotSynced):
		return notSynced("the nodes", v.Sync, v.At)
	case errors.Is(err, api.ErrNotFound):
		return notFound(v, object, err.Error())
	case errors.Is(err, api.ErrOtherLoss):
		return fail(http.StatusConflict, "look at them, and name their number if all of them are lost", "%v", err)
	}
	s.Log.Error("order failed", "object", object, "err", err)
	return fail(http.StatusInternalServerError, "", "%v", err)
}

// notFound suggests names that the name of the object is similar to.
func notFound(v *api.View, object, text string) error {
	var names []string
	kind, name, _ := strings.Cut(object, "/")
	if kind == "node" {
		for n := range v.Nodes.All() {
			names = append(names, n.Name)
		}
	} else {
		for _, r := range v.Roles {
			names = append(names, r.Name)
		}
	}
	_, departed := v.Departed[name]
	if slices.Contains(names, name) || kind == "node" && departed {
		names = nil // its action is not found, or it is gone
	}
	return failure{http.StatusNotFound, api.Error{Error: text, Suggestions: api.Suggest(name, names)}}
}

// awaitEvent waits until the view has the event with that number, so that a client can follow from there.
func (s *server) awaitEvent(ctx context.Context, seq int64) {
	for v := s.View(); newestEvent(v) < seq; v = s.View() {
		select {
		case <-v.Next:
		case <-ctx.Done():
			return
		}
	}
}

// readOrder reads the order in a request's body, which is like form.
func readOrder[T any](r *http.Request, what string, decode func([]byte) (T, error), form string) (o T, err error) {
	body, err := io.ReadAll(r.Body)
	if err != nil {
		return o, err
	}
	if o, err = decode(body); err != nil {
		err = fail(http.StatusBadRequest, "the body is like "+form, "%s: %v", what, err)
	}
	return o, err
}

func decodeKick(body []byte) (api.KickOrder, error) {
	o, err := decode[api.KickOrder](body)
	if kind, name, _ := strings.Cut(o.Object, "/"); err == nil && (kind != "node" && kind != "role" || name == "") {
		err = fmt.Errorf("object %.100q: want node/N or role/R", o.Object)
	}
	return o, cmp.Or(err, checkBy(o.By))
}

func decodeLeave(body []byte) (api.LeaveOrder, error) {
	o, err := decode[api.LeaveOrder](body)
	if name, isNode := strings.CutPrefix(o.Object, "node/"); err == nil && (!isNode || name == "") {
		err = fmt.Errorf("object %.100q: want node/N", o.Object)
	}
	return o, cmp.Or(err, checkBy(o.By))
}

func decodeLoss(body []byte) (api.LossOrder, error) {
	o, err := decode[api.LossOrder](body)
	switch name, isRole := strings.CutPrefix(o.Object, "role/"); {
	case err != nil:
	case !isRole || name == "":
		err = fmt.Errorf("object %.100q: want role/R", o.Object)
	case o.Expect < 0 || o.Expect > 100:
		err = fmt.Errorf("expect_percent %d: want 1 to 100", o.Expect)
	case o.For < 0 || (o.Expect > 0) != (o.For > 0):
		err = errors.New("expect_percent and for_ns go together: so many percent in that time")
	case o.Accept < 0 || (o.Accept > 0) == (o.Expect > 0):
		err = errors.New("want accept, the number of removals that are held, or expect_percent")
	}
	return o, cmp.Or(err, checkBy(o.By))
}

// maxBy is how many bytes the name of the person has who gives an order.
const maxBy = 256

// checkBy reports why a name cannot be in events and kicks.
func checkBy(by string) error {
	odd := func(r rune) bool { return !unicode.IsPrint(r) }
	if len(by) > maxBy || !utf8.ValidString(by) || strings.ContainsFunc(by, odd) {
		return fmt.Errorf("by %.40q: want at most %d bytes of printable characters", by, maxBy)
	}
	return nil
}

// decode reads one JSON object. It rejects unknown keys: a misspelled order must not do more than was meant.
func decode[T any](body []byte) (o T, err error) {
	dec := json.NewDecoder(bytes.NewReader(body))
	dec.DisallowUnknownFields()
	err = dec.Decode(&o)
	wrong, isWrong := errors.AsType[*json.UnmarshalTypeError](err)
	key, isUnknown := strings.CutPrefix(fmt.Sprint(err), "json: unknown field ")
	switch {
	case err == nil:
		if _, err := dec.Token(); err != io.EOF {
			return o, errors.New("more than one JSON value")
		}
		return o, nil
	case errors.Is(err, io.EOF):
		return o, errors.New("the body is empty")
	case isWrong && wrong.Field == "":
		return o, fmt.Errorf("want an object, have %s", wrong.Value)
	case isWrong:
		return o, fmt.Errorf("%s: want %s, have %s", wrong.Field, wrong.Type.Kind(), wrong.Value)
	case isUnknown:
		return o, fmt.Errorf("unknown key %s", key)
	}
	return o, fmt.Errorf("not JSON: %w", err)
}
