package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"

	"github.com/google/uuid"
	"github.com/vmware/govmomi/object"
	"github.com/vmware/govmomi/simulator"
	"github.com/vmware/govmomi/vim25"
	"github.com/vmware/govmomi/vim25/types"
)

const (
	datacenterName = "yard"
	clusterName    = "yard-cluster"
	switchName     = "yard-switch"
	networkName    = "game-net"
	otherNetwork   = "lan-net"
	poolName       = "game"
	folderName     = "game"
	datastoreName  = "vsanDatastore"
	apiVersion     = "8.0.3.0"
	nicKey         = 4000
	hostMemory     = 512 << 30
	guestMemoryMiB = 768
	datastoreBytes = 40 << 40
	childBytes     = 1 << 30
)

// world is what the inventory begins with.
type world struct {
	pool      types.ManagedObjectReference
	folder    types.ManagedObjectReference
	datastore types.ManagedObjectReference
	hosts     []types.ManagedObjectReference
}

func (v *vcenter) build() error {
	if v.options.esx {
		v.model = simulator.ESX()
		v.model.ServiceContent.About.ApiVersion = apiVersion
		v.world = &world{}
		if err := v.model.Create(); err != nil {
			return err
		}
		v.service = v.model.Service
		return nil
	}
	// The template that all hosts are made of.
	v.model = simulator.VPX()
	v.model.Datacenter = 0
	about := &v.model.ServiceContent.About
	// It says 6.5 by itself, and pyVmomi then hides Instant Clone.
	about.ApiVersion, about.Version = apiVersion, "8.0.3"
	v.model.ServiceContent.GuestCustomizationManager = &types.ManagedObjectReference{
		Type: "VirtualMachineGuestCustomizationManager", Value: "guestCustomizationManager",
	}
	if err := v.model.Create(); err != nil {
		return err
	}
	v.service = v.model.Service
	v.registry = v.model.Map()
	client, err := vim25.NewClient(context.Background(), v.service)
	if err != nil {
		return err
	}
	b := &builder{v: v, client: client, ctx: context.Background()}
	return b.build()
}

// builder makes the inventory through the API, as an administrator would.
type builder struct {
	v      *vcenter
	client *vim25.Client
	ctx    context.Context
}

func (b *builder) build() error {
	datacenter, err := object.NewRootFolder(b.client).CreateDatacenter(b.ctx, datacenterName)
	if err != nil {
		return err
	}
	folders, err := datacenter.Folders(b.ctx)
	if err != nil {
		return err
	}
	cluster, err := folders.HostFolder.CreateCluster(b.ctx, clusterName, types.ClusterConfigSpecEx{})
	if err != nil {
		return err
	}
	w := &world{}
	b.v.world = w
	if err = b.addHosts(cluster); err != nil {
		return err
	}
	network, err := b.addNetwork(folders.NetworkFolder)
	if err != nil {
		return err
	}
	if err = b.addDatastore(); err != nil {
		return err
	}
	root, err := cluster.ResourcePool(b.ctx)
	if err != nil {
		return err
	}
	pool, err := root.Create(b.ctx, poolName, types.DefaultResourceConfigSpec())
	if err != nil {
		return err
	}
	folder, err := folders.VmFolder.CreateFolder(b.ctx, folderName)
	if err != nil {
		return err
	}
	w.pool, w.folder = pool.Reference(), folder.Reference()
	if err = b.addParents(folder, pool, network); err != nil {
		return err
	}
	// Only now: on vSAN the simulator makes no VM while there are fewer than three hosts.
	datastore := b.v.registry.Get(w.datastore).(*simulator.Datastore)
	datastore.Summary.Type = string(types.HostFileSystemVolumeFileSystemTypeVsan)
	return nil
}

func (b *builder) addHosts(cluster *object.ClusterComputeResource) error {
	for number := 1; number <= b.v.options.hosts; number++ {
		spec := types.HostConnectSpec{HostName: fmt.Sprintf("esx-%02d", number)}
		ref, err := b.result(cluster.AddHost(b.ctx, spec, true, nil, nil))
		if err != nil {
			return err
		}
		host := b.v.registry.Get(ref).(*simulator.HostSystem)
		host.Summary.Hardware.MemorySize = hostMemory
		host.Hardware.MemorySize = hostMemory
		host.Summary.Hardware.NumCpuCores = 32
		host.Summary.Hardware.CpuMhz = 2600
		host.Summary.QuickStats.OverallMemoryUsage = 4096
		host.Summary.QuickStats.OverallCpuUsage = 400
		b.v.world.hosts = append(b.v.world.hosts, ref)
	}
	return nil
}

func (b *builder) addNetwork(folder *object.Folder) (types.BaseVirtualDeviceBackingInfo, error) {
	spec := types.DVSCreateSpec{ConfigSpec: &types.VMwareDVSConfigSpec{}}
	spec.ConfigSpec.GetDVSConfigSpec().Name = switchName
	ref, err := b.result(folder.CreateDVS(b.ctx, spec))
	if err != nil {
		return nil, err
	}
	dvs := object.NewDistributedVirtualSwitch(b.client, ref)
	config := &types.DVSConfigSpec{}
	for _, host := range b.v.world.hosts {
		config.Host = append(config.Host, types.DistributedVirtualSwitchHostMemberConfigSpec{
			Operation: string(types.ConfigSpecOperationAdd), Host: host,
		})
	}
	if _, err = b.result(dvs.Reconfigure(b.ctx, config)); err != nil {
		return nil, err
	}
	var groups []types.DVPortgroupConfigSpec
	for _, name := range []string{networkName, otherNetwork} {
		groups = append(groups, types.DVPortgroupConfigSpec{
			Name: name, NumPorts: 2048, Type: string(types.DistributedVirtualPortgroupPortgroupTypeEarlyBinding),
		})
	}
	task, err := dvs.AddPortgroup(b.ctx, groups)
	if err != nil {
		return nil, err
	}
	if err = task.Wait(b.ctx); err != nil {
		return nil, err
	}
	children := b.v.registry.Get(folder.Reference()).(*simulator.Folder).ChildEntity
	found := b.v.registry.FindByName(networkName, children)
	return object.NewDistributedVirtualPortgroup(b.client, found.Reference()).EthernetCardBackingInfo(b.ctx)
}

func (b *builder) addDatastore() error {
	directory := filepath.Join(b.v.options.state, "datastore")
	if err := os.MkdirAll(directory, 0o700); err != nil {
		return err
	}
	for _, ref := range b.v.world.hosts {
		system, err := object.NewHostSystem(b.client, ref).ConfigManager().DatastoreSystem(b.ctx)
		if err != nil {
			return err
		}
		made, err := system.CreateLocalDatastore(b.ctx, datastoreName, directory)
		if err != nil {
			return err
		}
		if ref == b.v.world.hosts[0] {
			// The others mount it, and are told no reference.
			b.v.world.datastore = made.Reference()
		}
	}
	datastore := b.v.registry.Get(b.v.world.datastore).(*simulator.Datastore)
	datastore.Summary.Capacity, datastore.Summary.FreeSpace = datastoreBytes, datastoreBytes/2
	datastore.Info.GetDatastoreInfo().FreeSpace = datastore.Summary.FreeSpace
	return nil
}

// addParents makes the first parent as any VM is made, and the others like it: making one takes the simulator 30 ms.
func (b *builder) addParents(folder *object.Folder, pool *object.ResourcePool, nic types.BaseVirtualDeviceBackingInfo) error {
	first := b.parentName(b.v.world.hosts[0])
	config, err := parentSpec(first, nic)
	if err != nil {
		return err
	}
	host := object.NewHostSystem(b.client, b.v.world.hosts[0])
	ref, err := b.result(folder.CreateVM(b.ctx, config, pool, host))
	if err != nil {
		return err
	}
	if _, err = b.result(object.NewVirtualMachine(b.client, ref).PowerOn(b.ctx)); err != nil {
		return err
	}
	template := b.v.machine(ref)
	givePort(findNIC(template))
	b.v.prepareParent(template)
	for _, ref := range b.v.world.hosts[1:] {
		copied := copyMachine(template, b.parentName(ref), uuid.NewString(), childLevel{})
		copied.Runtime.Host = &ref
		b.v.prepareParent(copied)
		if fault := b.v.enter(b.v.context(), copied, b.v.world.folder, b.v.world.pool); fault != nil {
			return fmt.Errorf("%s: %T", copied.Name, fault)
		}
	}
	return nil
}

func (b *builder) parentName(host types.ManagedObjectReference) string {
	return fmt.Sprintf("%s-parent-%s", b.v.options.service, b.v.registry.Get(host).(*simulator.HostSystem).Name)
}

func parentSpec(name string, nic types.BaseVirtualDeviceBackingInfo) (types.VirtualMachineConfigSpec, error) {
	spec := types.VirtualMachineConfigSpec{
		Name:     name,
		GuestId:  string(types.VirtualMachineGuestOsIdentifierVmwarePhoton64Guest),
		MemoryMB: guestMemoryMiB,
		NumCPUs:  1,
		Files:    &types.VirtualMachineFileInfo{VmPathName: fmt.Sprintf("[%s]", datastoreName)},
	}
	var devices object.VirtualDeviceList
	scsi, err := devices.CreateSCSIController("pvscsi")
	if err != nil {
		return spec, err
	}
	path := fmt.Sprintf("[%s] %s/disk.vmdk", datastoreName, name)
	disk := devices.CreateDisk(scsi.(types.BaseVirtualController), types.ManagedObjectReference{}, path)
	disk.CapacityInKB = 8 << 20
	card, err := devices.CreateEthernetCard("vmxnet3", nic)
	if err != nil {
		return spec, err
	}
	card.GetVirtualDevice().Key = nicKey
	devices = append(devices, scsi, disk, card)
	spec.DeviceChange, err = devices.ConfigSpec(types.VirtualDeviceConfigSpecOperationAdd)
	return spec, err
}

// prepareParent makes the VM one in which our agent waits at the fork point.
func (v *vcenter) prepareParent(vm *simulator.VirtualMachine) {
	// The simulator leaves these empty, and pyVmomi cannot read an enumeration's empty value.
	vm.Runtime.FaultToleranceState = types.VirtualMachineFaultToleranceStateNotConfigured
	vm.Runtime.RecordReplayState = types.VirtualMachineRecordReplayStateInactive
	vm.Runtime.InstantCloneFrozen = types.NewBool(v.options.frozen)
	vm.Summary.Runtime = vm.Runtime
	setTools(vm, !v.options.frozen)
}

func (b *builder) result(task *object.Task, err error) (types.ManagedObjectReference, error) {
	if err != nil {
		return types.ManagedObjectReference{}, err
	}
	info, err := task.WaitForResult(b.ctx, nil)
	if err != nil {
		return types.ManagedObjectReference{}, err
	}
	ref, _ := info.Result.(types.ManagedObjectReference)
	return ref, nil
}
