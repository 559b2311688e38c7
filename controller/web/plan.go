package web

import (
	"errors"
	"net/http"

	"kicker/controller/api"
)

const (
	planPath  = "/v1/plan"
	maxConfig = 1 << 20 // bytes of a configuration
)

// plan says what another configuration would change. It changes nothing, so it asks for no more rights than a question.
func (s *server) plan(w http.ResponseWriter, r *http.Request) {
	text, ok := s.readBody(w, r, maxConfig)
	if !ok {
		return
	}
	p, err := s.Plan(r.Context(), text)
	switch {
	case errors.Is(err, api.ErrNotSynced):
		v := s.View()
		s.fail(w, http.StatusServiceUnavailable, notSynced("the nodes", v.Sync, v.At))
	case err != nil:
		s.badRequest(w, err, "the controller would reject this file: `kicker config validate` checks it")
	default:
		s.answer(w, p)
	}
}
