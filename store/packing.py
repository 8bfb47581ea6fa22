"""Records as the store keeps them: canonical JSON, compressed with a dictionary that all share. Sans-IO.

One record has little in it that repeats; beside another it is mostly names seen before. A dictionary of those
(deflate's, RFC 1950) makes a record of 1.3 kB half a kilobyte, and unpacking one costs 4 us. The format carries the
dictionary's checksum, so that another dictionary can follow later, and the record's: a byte that changed on the disk is
noticed by whoever reads it.
"""

import zlib

from store.errors import Damaged

LEVEL = 6
STRATEGY = zlib.Z_FIXED  # no tables of a record's own: an eighth of a kilobyte more, read in two thirds of the time
WINDOW_BITS = 12  # 4 kB: the dictionary and most records; what fits in a window is cheap to set up

# What follows matches best where it stands last, so the frame of every record stands at the end. Never to be changed:
# what was packed with it can be read only with it.
DICTIONARY = (
    b'"os_admin_user":"","os_distro":"debian","os_distro":"ubuntu","os_version":"22.04","os_type":"linux",'
    b'"os_type":"windows","architecture":"aarch64","architecture":"x86_64","hw_disk_bus":"scsi","hw_disk_bus":"virtio",'
    b'"hw_firmware_type":"bios","hw_firmware_type":"uefi","hw_machine_type":"q35","hw_qemu_guest_agent":"yes",'
    b'"hw_rng_model":"virtio","hw_scsi_model":"virtio-scsi","hw_video_model":"virtio","hw_vif_model":"virtio",'
    b'"image_build_date":"2026-","image_description":"https://","image_original_user":"","provided_until":"none",'
    b'"replace_frequency":"monthly","kernel_id":"","ramdisk_id":"","img_config_drive":"mandatory",'
    b'"block_device_mapping":"[]","bdm_v2":"True","root_device_name":"/dev/vda","image_location":"snapshot",'
    b'"image_state":"available","owner_id":"","owner_project_name":"","owner_user_name":"","source_type":"image",'
    b'"destination_type":"volume","volume_size":,"snapshot_id":"","delete_on_termination":false,'
    b'["file:///var/lib/glance/images/","rbd://","cinder://","swift+https://","s3+https://",'
    b'"tags":["base","x86_64","daily"],"container_format":"ami","disk_format":"raw","disk_format":"iso",'
    b'"disk_format":"vmdk","status":"queued","status":"deactivated","visibility":"public","visibility":"shared",'
    b'"visibility":"community","protected":true,"members":{"":["pending",false,"","accepted",false,"'
    b'"presence":{"zone-a":{"verified":["2026-01-01T00:00:00.000Z",""],"wanted":["2026-","claimed":["2026-'
    b'[null,"active"],["queued","updated","created","deleted","numbered"'
    b'{"by":["","req-"],"creator":"","deleted_at":null,"fields":{"checksum":"","container_format":"bare","created_at":"2026-01-01T00:00:00Z"'
    b',"disk_format":"qcow2","min_disk":20,"min_ram":0,"name":" daily backup 2026-","os_hash_algo":"sha512",'
    b'"os_hash_value":"","os_hidden":false,"owner":"","protected":false,"size":0,"status":"active",'
    b'"updated_at":"2026-01-01T00:00:00Z","virtual_size":null,"visibility":"private"},"integer":1,'
    b'"locations":[["https://objects.example.org/v1/AUTH_images/glance/",{"store":"file","zone":""}]],"members":{},'
    b'"position":1,"presence":{},"properties":{"backup_type":"weekly","backup_type":"daily","base_image_ref":"",'
    b'"boot_roles":"member,reader","image_type":"snapshot","image_type":"backup","instance_uuid":"",'
    b'"owner_specified.openstack.md5":"","owner_specified.openstack.object":"images/",'
    b'"owner_specified.openstack.sha256":"","user_id":""},"tags":["backup","daily"],"uuid":"","write":"-4000-8000-.1"}'
)

CANONICAL_BYTES_MAX = 4_194_304  # far above any record; what other nodes' snapshots hold is not ours until it is read


def pack(canonical: bytes) -> bytes:
    """A record's canonical form (`store.images.Image.encode`) as the store keeps it."""
    packer = zlib.compressobj(LEVEL, zlib.DEFLATED, WINDOW_BITS, zlib.DEF_MEM_LEVEL, STRATEGY, DICTIONARY)
    return packer.compress(canonical) + packer.flush()


def unpack(packed: bytes) -> bytes:
    """The canonical form again. Raises Damaged for what is not as it was written, or grows beyond reason."""
    unpacker = zlib.decompressobj(WINDOW_BITS, DICTIONARY)
    try:
        canonical = unpacker.decompress(packed, CANONICAL_BYTES_MAX)
    except zlib.error as error:
        raise Damaged(f"a record cannot be read: {error}") from None
    if not unpacker.eof:
        raise Damaged("a record cannot be read: its end is missing")
    return canonical
