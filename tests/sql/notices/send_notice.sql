-- graphjobs.notices.SEND_NOTICE
PREPARE notices_send_notice AS
SELECT pg_notify('graphjobs_queued', '') AS pg_notify_1;
