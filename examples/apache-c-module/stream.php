<?php
// What a site with the C module has already: who may, what is asked, two headers.

declare(strict_types=1);

session_start();
$user = $_SESSION['user_id'] ?? null;
// Cookies of this answer are lost: handoffd writes its head. Nothing further is done with the session.
session_write_close();
if ($user === null) {
    http_response_code(401);
    header('Content-Type: application/json');
    exit('{"error":{"message":"log in first"}}');
}

$prompt = $_REQUEST['prompt'] ?? '';
if (!is_string($prompt) || trim($prompt) === '') {
    http_response_code(400);
    header('Content-Type: application/json');
    exit('{"error":{"message":"prompt is missing"}}');
}

$data = json_encode([
    'user_id' => $user,
    'prompt' => $prompt,
    // For pages that append every message as it comes. Without it messages are JSON, {"content":"…"}, and survive
    // everything that is in an answer.
    'format' => 'text',
    // The C module does not say which method the request has. HEAD has no body.
    'method' => $_SERVER['REQUEST_METHOD'],
    // A browser that reconnects after the end of an answer is told so (204) instead of given another one.
    'last_event_id' => $_SERVER['HTTP_LAST_EVENT_ID'] ?? '',
], JSON_INVALID_UTF8_SUBSTITUTE | JSON_THROW_ON_ERROR);

header('X-Socket-Handoff: /run/handoffd/handoffd.sock');
header('X-Handoff-Data: ' . $data);
