package main

import (
	"slices"
	"sync"

	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25/types"
)

// person may log in, and do all but what their role lacks.
type person struct {
	Name     string   `json:"name"`
	Password string   `json:"password"`
	Lacks    []string `json:"lacks"`
}

type people struct {
	mutex sync.Mutex
	all   map[string]person
}

func newPeople(name, password string) *people {
	return &people{all: map[string]person{name: {Name: name, Password: password}}}
}

func (p *people) set(one person) {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	p.all[one.Name] = one
}

func (p *people) mayLogIn(asked *types.Login) bool {
	p.mutex.Lock()
	defer p.mutex.Unlock()
	found, known := p.all[asked.UserName]
	return known && found.Password == asked.Password
}

// privileges that vCenter asks for, per method: its own, and those on the folder, pool and datastore of a new VM.
var privileges = map[string][]string{
	"InstantClone_Task": {
		"VirtualMachine.Provisioning.Clone", "VirtualMachine.Inventory.CreateFromExisting", "VirtualMachine.Interact.PowerOn",
		"Resource.AssignVMToPool", "Datastore.AllocateSpace",
	},
	"PowerOffVM_Task":         {"VirtualMachine.Interact.PowerOff"},
	"PowerOnVM_Task":          {"VirtualMachine.Interact.PowerOn"},
	"Destroy_Task":            {"VirtualMachine.Inventory.Delete"},
	"ReconfigVM_Task":         {"VirtualMachine.Config.AdvancedConfig", "VirtualMachine.Config.EditDevice"},
	"StartProgramInGuest":     {"VirtualMachine.GuestOperations.Execute"},
	"ListProcessesInGuest":    {"VirtualMachine.GuestOperations.Query"},
	"AbortCustomization_Task": {"VirtualMachine.Provisioning.Customize"},
	"CustomizeGuest_Task":     {"VirtualMachine.Provisioning.Customize"},
	"StartGuestNetwork_Task":  {"VirtualMachine.Provisioning.Customize"},
	"SetField":                {"Global.SetCustomField"},
	"AddCustomFieldDef":       {"Global.ManageCustomFields"},
}

func (p *people) refuse(session *simulator.Session, method *simulator.Method) types.BaseMethodFault {
	needed := privileges[method.Name]
	if session == nil || len(needed) == 0 {
		return nil
	}
	p.mutex.Lock()
	lacks := p.all[session.UserName].Lacks
	p.mutex.Unlock()
	for _, one := range needed {
		if slices.Contains(lacks, one) {
			this := method.This
			return &types.NoPermission{Object: &this, PrivilegeId: one}
		}
	}
	return nil
}
